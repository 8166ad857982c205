"""Controls that are computed, not trained: iALS, EASE, popularity, and what is made of the vectors of plain BPR.

Each becomes a run directory like those of `mrl.train.fit`. Their settings come from validation, then the model is made
anew with all of train and tested once; under `paper`, validation is the test set. The methods are in
`mrl.controls.models` and `mrl.least_squares.ials`; `mrl.controls.runs` says which there are.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import torch
from pydantic import Field
from torch import Tensor

from mrl.config import TrainConfig
from mrl.controls.models import ScoreBlocks, ease, ease_scores, popularity_scores, search_ials, shuffle_columns
from mrl.data import datasets
from mrl.data.interactions import Interactions, Positives
from mrl.data.load import load_data, pick_device
from mrl.evaluation.evaluate import Evaluation, evaluate, evaluate_scores
from mrl.least_squares.axes import rotate
from mrl.least_squares.ials import ials
from mrl.parameters import settings
from mrl.runs.directory import default_path, run_path
from mrl.runs.run import Run, RunDirectory, load
from mrl.train import write_run

# The settings that concern a control which is not trained by `mrl.train.fit`; its config.json has no others.
COMMON = (
    *("dataset", "protocol", "split", "holdout", "min_rating", "core"),
    *("user_column", "item_column", "rating_column", "timestamp_column", "planted"),
    *("widths", "eval_widths", "seed", "device", "per_user", "run_dir", "name"),
)

Model = tuple[Tensor, Tensor] | ScoreBlocks  # users (U, D) and items (I, D), or scores that have no width


@settings
class ComputedConfig(TrainConfig):
    """Settings of a control that is computed, not trained: `name` says which it is, `settings` are its own."""

    settings: dict[str, Any] = Field(default_factory=dict)

    @property
    def derived(self) -> bool:
        """Whether it is made of the vectors of `bpr`, so that the settings of that training are its own too."""
        return self.name.startswith(("bpr-", "alone-"))

    def to_dict(self) -> dict:
        return {name: value for name, value in asdict(self).items() if self.derived or name in (*COMMON, "settings")}


def compute(
    config: ComputedConfig, data: Interactions | None = None, *, on_step: Callable[[str], None] | None = None
) -> Run:
    """Compute one control, write its run directory and return it. data: as from `load_data`, if it is at hand.

    Under `honest` its settings come from validation, then it is made anew with all of train, and test is touched once.
    on_step: told in words what has just been done.
    """
    data = load_data(config) if data is None else data
    device = pick_device(config.device)
    started = time.perf_counter()
    with RunDirectory(run_path(config)) as directory:
        directory.clear_results()
        directory.write_config(config.to_dict())
        make = _from_bpr if config.derived else {"ials": _ials, "ease": _ease, "popularity": _popularity}[config.name]
        made = make(config, data, device, on_step or (lambda text: None))
        costs = {"best_epoch": None, "seconds": round(time.perf_counter() - started, 3)}
        vectors = made.model if isinstance(made.model, tuple) else None
        write_run(
            directory, config, data, made.results, device, history=made.history, vectors=vectors,
            facts=costs | made.facts,
        )  # fmt: skip
    return load(directory.path)


@dataclass(frozen=True)
class _Made:
    """A control: its final model, what was measured (test last), how its settings were found, what else to note."""

    model: Model
    results: list[Evaluation]
    history: pl.DataFrame
    facts: dict[str, Any]


def _final_positives(config: ComputedConfig, data: Interactions) -> Positives:
    """What the model that is tested is made from: under `honest`, train with validation back in it."""
    return data.merge_valid().train if config.protocol == "honest" else data.train


def _measure(config: ComputedConfig, data: Interactions, model: Model, split: str) -> Evaluation:
    per_user = config.per_user and split == "test"
    if isinstance(model, tuple):
        return evaluate(*model, data, split=split, widths=config.report_widths, per_user=per_user)
    return evaluate_scores(model, data, split=split, per_user=per_user, device=pick_device(config.device))


def _judged(
    config: ComputedConfig,
    data: Interactions,
    device: torch.device,
    build: Callable[[Positives], Model],
    valid: Evaluation | None = None,
) -> tuple[Model, list[Evaluation]]:
    """The model that is tested, and its figures on validation (`honest` only; `valid` if known) and test."""
    honest = config.protocol == "honest"
    if honest and valid is None:
        valid = _measure(config, data, build(data.train.to(device)), "valid")
    model = build(_final_positives(config, data).to(device))
    test = _measure(config, data, model, "test")
    return model, [valid, test] if honest else [test]


def _from_bpr(config: ComputedConfig, data: Interactions, device: torch.device, say: Callable) -> _Made:
    """Only test is measured: these vectors have been trained on all of train already."""
    path = Path(config.run_dir).with_name(default_path(datasets.dataset_name(config.dataset), "bpr", config.seed).name)
    bpr = load(path)
    vectors = bpr.users.to(device), bpr.items.to(device)
    if config.name == "bpr-rotated":
        vectors = rotate(*vectors)
    elif config.name == "bpr-shuffled":
        vectors = shuffle_columns(*vectors, torch.Generator().manual_seed(config.seed))
    facts = {name: bpr.environment[name] for name in ("best_epoch", "seconds")} | {"from": bpr.path.name}
    return _Made(vectors, [_measure(config, data, vectors, "test")], bpr.history, facts)


def _ials(config: ComputedConfig, data: Interactions, device: torch.device, say: Callable) -> _Made:
    dim, chosen, trials = config.widths[-1], dict(config.settings), pl.DataFrame()
    if "trials" in chosen:
        on_device = replace(data, train=data.train.to(device))
        settings = {"widths": config.widths, "seed": config.seed, "trials": chosen["trials"]}
        chosen, trials = search_ials(on_device, dim, **settings, on_trial=lambda row: say(_words(row)))

    def build(positives: Positives) -> Model:
        return rotate(*ials(positives, dim, **chosen, generator=torch.Generator().manual_seed(config.seed)))

    return _Made(*_judged(config, data, device, build), trials, chosen)


def _ease(config: ComputedConfig, data: Interactions, device: torch.device, say: Callable) -> _Made:
    def build(positives: Positives, l2: float) -> Model:
        return ease_scores(positives, ease(positives, l2))

    rows, results, tried = [], [], config.settings["l2"]
    for trial, l2 in enumerate(tried if len(tried) > 1 else (), start=1):
        begun = time.perf_counter()
        results.append(_measure(config, data, build(data.train.to(device), l2), "valid"))
        table = results[-1].table.filter(metric="ndcg")
        table = table.filter(pl.col("k") <= 20)  # its last is 20, or as far as the catalogue goes
        rows.append({"l2": l2, "value": table["value"][-1], "seconds": time.perf_counter() - begun})
        say(_words({"trial": trial, **rows[-1]}))
    best = max(range(len(rows)), key=lambda trial: rows[trial]["value"], default=0)
    build = partial(build, l2=tried[best])
    made = _judged(config, data, device, build, results[best] if results else None)
    return _Made(*made, pl.DataFrame(rows), {"l2": tried[best]})


def _popularity(config: ComputedConfig, data: Interactions, device: torch.device, say: Callable) -> _Made:
    return _Made(*_judged(config, data, device, popularity_scores), pl.DataFrame(), {})


def _words(row: dict) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in row.items() if name != "seconds")
