"""Controls that are computed, not trained: SVD, iALS, EASE, popularity, and what is made of the vectors of plain BPR.

Each becomes a run directory like those of `mrl.train.fit`. Their settings come from validation, then the model is made
anew with all of train and tested once; under `paper`, validation is the test set. The methods are in
`mrl.controls.models` and `mrl.least_squares.ials`; `mrl.controls.runs` says which there are.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import torch
from pydantic import Field

from mrl.config import TrainConfig
from mrl.controls.models import (
    Model,
    ease,
    ease_scores,
    evaluate_model,
    popularity_scores,
    search_ials,
    shuffle_columns,
    truncated_svd,
)
from mrl.data import Interactions, Positives, datasets, load_data, pick_device
from mrl.errors import RunError
from mrl.evaluation import Evaluation
from mrl.kernels.fast_paths import check_anew
from mrl.least_squares import ials, rotate
from mrl.parameters import settings
from mrl.runs import Run, RunDirectory, default_path, load, run_path, write_run

# The settings that concern a control which is not trained by `mrl.train.fit`; its config.json has no others.
COMMON = (
    *("dataset", "protocol", "split", "holdout", "min_rating", "core"),
    *("user_column", "item_column", "rating_column", "timestamp_column", "planted"),
    *("widths", "eval_widths", "seed", "device", "per_user", "run_dir", "name"),
)


@settings
class ComputedConfig(TrainConfig):
    """Settings of a control that is computed, not trained: `name` says which it is, `settings` are its own."""

    settings: dict[str, Any] = Field(default_factory=dict)

    @property
    def is_from_bpr(self) -> bool:
        """Whether it is made of the vectors of `bpr`, so that the settings of that training are its own too."""
        return self.name.startswith(("bpr-", "alone-"))

    def to_dict(self) -> dict:
        names = (*COMMON, "settings")
        return {name: value for name, value in asdict(self).items() if self.is_from_bpr or name in names}


def compute_control(
    config: ComputedConfig, data: Interactions | None = None, *, on_step: Callable[[str], None] | None = None
) -> Run:
    """Compute one control, write its run directory and return it. data: as from `load_data`, if it is at hand.

    Under `honest` its settings come from validation, then it is made anew with all of train, and test is touched once.
    on_step: called with what has just been done, in words. Raises RunError where a finished run of other data is there.
    """
    config = replace(config, dataset=datasets.resolve_dataset(config.dataset))
    data = load_data(config) if data is None else data
    started = time.perf_counter()
    with RunDirectory(run_path(config)) as directory, check_anew():
        notes = directory.check_data(config, data)
        directory.clear_results()
        directory.write_config(config.to_dict())
        methods = {"svd": _svd, "ials": _ials, "ease": _ease, "popularity": _popularity}
        control = _Control(config, data, pick_device(config.device), on_step or (lambda text: None))
        (_from_bpr if config.is_from_bpr else methods[config.name])(control)
        facts = {"best_epoch": None, "seconds": round(time.perf_counter() - started, 3)} | control.facts
        facts["notes"] = [*data.notes, *notes]
        vectors = control.model if isinstance(control.model, tuple) else None
        write_run(
            directory, config, data, control.results, control.device, history=control.history, vectors=vectors,
            facts=facts,
        )  # fmt: skip
    return load(directory.path)


@dataclass
class _Control:
    """A control while it is computed. results: of the final model, test last. history: how its settings were found.
    facts: what else to note."""

    config: ComputedConfig
    data: Interactions
    device: torch.device
    on_step: Callable[[str], None]
    model: Model | None = None
    results: list[Evaluation] = field(default_factory=list)
    history: pl.DataFrame = field(default_factory=pl.DataFrame)
    facts: dict[str, Any] = field(default_factory=dict)

    def evaluate(self, model: Model, split: str) -> Evaluation:
        per_user = self.config.per_user and split == "test"
        widths = self.config.report_widths
        return evaluate_model(model, self.data, split=split, widths=widths, device=self.device, per_user=per_user)

    def finish(self, build: Callable[[Positives], Model], valid: Evaluation | None = None) -> None:
        """Build the final model and test it; under `honest` with its metrics on validation (`valid` if known)."""
        honest = self.config.protocol == "honest"
        if honest:
            self.results = [valid or self.evaluate(build(self.data.train.to(self.device)), "valid")]
        data = self.data.merge_valid() if honest else self.data
        self.model = build(data.train.to(self.device))
        self.results.append(self.evaluate(self.model, "test"))

    def log(self, row: dict) -> None:
        self.on_step(", ".join(f"{name} {value:.4g}" for name, value in row.items() if name != "seconds"))


def _from_bpr(control: _Control) -> None:
    """Only test is measured: these vectors have been trained on all of train already."""
    config = control.config
    path = Path(config.run_dir).with_name(default_path(datasets.dataset_name(config.dataset), "bpr", config.seed).name)
    bpr = load(path)
    if bpr.environment["fingerprint"] != control.data.fingerprint:
        raise RunError(f"{bpr.path}: was trained on other data than {control.data.name} is now; train it again first")
    vectors = bpr.users.to(control.device), bpr.items.to(control.device)
    if config.name == "bpr-rotated":
        vectors = rotate(*vectors)
    elif config.name == "bpr-shuffled":
        vectors = shuffle_columns(*vectors, torch.Generator().manual_seed(config.seed))
    control.model, control.results, control.history = vectors, [control.evaluate(vectors, "test")], bpr.history
    control.facts = {name: bpr.environment[name] for name in ("best_epoch", "seconds")} | {"from": bpr.path.name}


def _ials(control: _Control) -> None:
    config, dim, chosen = control.config, control.config.widths[-1], dict(control.config.settings)
    if "trials" in chosen:
        data = replace(control.data, train=control.data.train.to(control.device))
        options = {"widths": config.widths, "seed": config.seed, "trials": chosen["trials"]}
        chosen, control.history = search_ials(data, dim, **options, on_trial=control.log)

    def build(positives: Positives) -> Model:
        return rotate(*ials(positives, dim, **chosen, generator=torch.Generator().manual_seed(config.seed)))

    control.facts = chosen
    control.finish(build)


def _svd(control: _Control) -> None:
    def build(positives: Positives) -> Model:
        users, items = truncated_svd(positives, control.config.widths[-1], seed=control.config.seed)
        return users.to(control.device), items.to(control.device)

    control.finish(build)


def _ease(control: _Control) -> None:
    def build(positives: Positives, l2: float) -> Model:
        return ease_scores(positives, ease(positives, l2))

    rows, results, grid = [], [], control.config.settings["l2"]
    for trial, l2 in enumerate(grid if len(grid) > 1 else (), start=1):
        started = time.perf_counter()
        results.append(control.evaluate(build(control.data.train.to(control.device), l2), "valid"))
        table = results[-1].table.filter(metric="ndcg")
        table = table.filter(pl.col("k") <= 20)  # its last is 20, or as far as the catalogue goes
        rows.append({"l2": l2, "value": table["value"][-1], "seconds": time.perf_counter() - started})
        control.log({"trial": trial, **rows[-1]})
    best = max(range(len(rows)), key=lambda trial: rows[trial]["value"], default=0)
    control.history, control.facts = pl.DataFrame(rows), {"l2": grid[best]}
    control.finish(partial(build, l2=grid[best]), results[best] if results else None)


def _popularity(control: _Control) -> None:
    control.finish(popularity_scores)
