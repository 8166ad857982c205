"""From settings to a run directory: search the settings and the epoch, refit, test once, write.

    from mrl import TrainConfig, fit
    run = fit(TrainConfig(dataset="ml-100k", epochs=50))

Under `honest` the epoch with the best validation metric (averaged over the widths) is looked for first, then a
fresh model is trained on all of train for that many epochs and tested once; under `paper` test is validation, as
in the published code (Lai et al., arXiv 2406.07432), and every table says so. The recipes that start from nested
least squares look for its settings before that; their epoch 0 is the closed form itself.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import polars as pl
import torch
from torch import Tensor
from tqdm import tqdm

from mrl.config import ELSEWHERE, TrainConfig
from mrl.data.interactions import Interactions, Positives
from mrl.data.load import load_data, pick_device
from mrl.errors import DataError
from mrl.evaluation.evaluate import Evaluation, evaluate
from mrl.least_squares.rotation import start_model
from mrl.least_squares.search import CHOSEN, choose_least_squares
from mrl.least_squares.validation import fit_least_squares, judges
from mrl.runs.directory import run_path
from mrl.runs.run import Run, RunDirectory, check_compatible, environment, load
from mrl.trainer import Trainer

SEARCH, REFIT = "search", "refit"
SETTINGS, SWEEPS = "settings", "sweeps"
STATE = ("phase", "rows", "plans", "plan", "plan_value", "chosen", "best_epoch", "best_value", "waited")
EGO = "best.ego."
LONGEST_LIST = 20  # of the metrics that every validation looks at


def fit(config: TrainConfig, data: Interactions | None = None, *, progress: bool = True) -> Run:
    """Train, evaluate and write the run directory; return it, loaded.

    data: as from `load_data`, if it is at hand. progress: bars on stderr (epoch, loss, metric, time left).
    A run that was interrupted goes on from its last checkpoint where its settings are the same (`config.resume`).
    Raises RunError where training diverges or the directory cannot be used.
    """
    device = pick_device(config.device)
    data = load_data(config) if data is None else data
    if data.num_items < LONGEST_LIST:
        raise DataError(f"{data.name}: {data.num_items} items, where validation by lists of 20 needs at least 20")
    started = time.perf_counter()
    with RunDirectory(run_path(config)) as directory:
        found = directory.load_checkpoint() if config.resume else None
        if found is not None:
            check_compatible(found[1], **_identity(config, data))
        state = _State() if found is None else _State.restore(*found)
        directory.clear_results()  # first: the metrics of other settings are not those of this config
        directory.write_config(config.to_dict())

        def save(trainer: Trainer) -> None:
            meta = _identity(config, data) | state.meta()
            directory.save_checkpoint(trainer.state() | state.best, meta)
            directory.write_history(state.history)

        say = partial(tqdm.write, file=sys.stderr) if progress else _silent
        if state.phase == SEARCH:
            state.choose(config, data, device, say)
            begin = _start(data.train, device, state, say)
            watched = data if config.recipe == "mrl4rec" else judges(data, config.seed)
            while state.plan < len(state.plans):
                trainer = begin(state.planned(config), found)
                if found is None and config.recipe != "mrl4rec":  # there, epoch 0 is random
                    state.validate(trainer, watched, _row(trainer, SEARCH, 0.0), save)
                _search(trainer, watched, state, save, progress)
                state.plan, state.plan_value, state.waited, found = state.plan + 1, -1.0, 0, None
        users, items = state.best["best.users"].to(device), state.best["best.items"].to(device)
        backbone = {name.removeprefix(EGO): table for name, table in state.best.items() if name.startswith(EGO)}
        results = []
        if config.protocol == "honest":
            results.append(evaluate(users, items, data, split="valid", widths=config.report_widths))
            found = found if state.phase == REFIT else None
            state.phase = REFIT
            final = replace(config, **state.chosen)
            trainer = _start(data.merge_valid().train, device, state, say)(final, found)
            _refit(trainer, state, save, progress)
            users, items, backbone = *trainer.vectors(), trainer.backbone()
        results.append(
            evaluate(users, items, data, split="test", widths=config.report_widths, per_user=config.per_user)
        )
        costs = {
            "best_epoch": state.best_epoch,
            "seconds": round(state.seconds, 3),
            "wall_seconds": round(time.perf_counter() - started, 3),
            "users_with_every_item": trainer.idle_users,
        } | ({"chosen": state.chosen} if state.chosen else {})
        write_run(
            directory, config, data, results, device, history=state.history, vectors=(users, items), backbone=backbone,
            facts=costs,
        )  # fmt: skip
        directory.drop_checkpoint()
    return load(directory.path)


def write_run(
    directory: RunDirectory,
    config: TrainConfig,
    data: Interactions,
    results: Sequence[Evaluation],
    device: torch.device,
    *,
    history: pl.DataFrame,
    vectors: tuple[Tensor, Tensor] | None,
    backbone: Mapping[str, Tensor] | None = None,
    facts: Mapping[str, Any] | None = None,
) -> None:
    """Write all of a finished run but its config.

    results: what was measured, test last. vectors: users (U, D) and items (I, D), None for a model that has none.
    facts: what environment.json is to hold beside versions and memory, such as seconds.
    """
    columns = {"dataset": data.name, "model": config.run_name, "protocol": config.protocol, "seed": config.seed}
    directory.write_history(history)
    directory.write_ids(data)
    directory.write_seen(data.merge_valid().train if config.protocol == "honest" else data.train)
    if vectors is not None:
        directory.write_weights(*vectors, backbone)
    memory = {"peak_memory_mib": round(peak_memory_mib())}
    directory.write_environment(environment(data, device) | memory | dict(facts or {}))
    if results[-1].per_user is not None:
        directory.write_per_user(results[-1].per_user)
    # last: a run with metrics is a finished one
    directory.write_metrics(pl.concat(result.tidy(**columns) for result in results))


@dataclass
class _State:
    """Where a run stands: the phase, the history so far, and the best epoch with its vectors."""

    phase: str = SEARCH
    rows: list[dict] = field(default_factory=list)
    plans: list[dict] = field(default_factory=list)
    plan: int = 0
    plan_value: float = -1.0
    chosen: dict = field(default_factory=dict)
    best_epoch: int = 0
    best_value: float = -1.0
    waited: int = 0
    best: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def restore(cls, tensors: dict[str, Tensor], meta: dict) -> _State:
        best = {name: tensor for name, tensor in tensors.items() if name.startswith("best.")}
        return cls(**{name: meta[name] for name in STATE}, best=best)

    def meta(self) -> dict:
        return {name: getattr(self, name) for name in STATE}

    def choose(self, config: TrainConfig, data: Interactions, device: torch.device, say: Callable) -> None:
        """Plan what to train: with the settings that the config leaves open, those of `CHOSEN`."""
        if self.plans:
            return
        if config.recipe == "mrl4rec":
            self.plans = [{}]
            return

        def on_trial(row: dict) -> None:
            self.rows.append({"phase": SETTINGS} | row)
            tried = {name: value for name, value in row.items() if name not in ("trial", "seconds")}
            say("settings: " + ", ".join(f"{name} {_short(value)}" for name, value in tried.items()))

        on_device = replace(data, train=data.train.to(device))
        filled = choose_least_squares(config, on_device, on_trial)
        self.plans = [{name: getattr(plan, name) for name in CHOSEN} for plan in filled]

    def planned(self, config: TrainConfig) -> TrainConfig:
        """The config with the settings of the present plan."""
        return replace(config, **self.plans[self.plan])

    @property
    def history(self) -> pl.DataFrame:
        return pl.DataFrame(self.rows, infer_schema_length=None)

    @property
    def seconds(self) -> float:
        """Spent in training and validation, over all sittings."""
        return sum(row["seconds"] for row in self.rows)

    def validate(self, trainer: Trainer, data: Interactions, row: dict, save: Callable) -> None:
        """Measure the trainer's vectors on validation, keep them if they are the best so far, and save all."""
        begun = time.perf_counter()
        config = trainer.config
        k = int(config.monitor.split("@")[1])
        users, items = trainer.vectors()
        result = evaluate(users, items, data, split="valid", widths=config.widths, ks=sorted({20, k}))
        for metric in dict.fromkeys(("recall@20", "ndcg@20", config.monitor)):
            row |= {f"{metric}_w{width}": result.value(metric, width) for width in config.widths}
        value = sum(result.value(config.monitor, width) for width in config.widths) / len(config.widths)
        if value > self.plan_value:
            self.plan_value, self.waited = value, 0
        else:
            self.waited += 1
        if value > self.best_value:
            self.best_epoch, self.best_value, self.chosen = trainer.epoch, value, self.plans[self.plan]
            self.best = {"best.users": users.cpu(), "best.items": items.cpu()}
            self.best |= {f"{EGO}{name}": table.cpu() for name, table in trainer.backbone().items()}
        row["seconds"] += time.perf_counter() - begun
        self.rows.append(row)
        save(trainer)


def _start(
    positives: Positives, device: torch.device, state: _State, say: Callable
) -> Callable[[TrainConfig, tuple | None], Trainer]:
    """A function that makes trainers, each at its start, which the recipe gives, or where a checkpoint left it.

    Least squares, where the recipe starts from it, is fitted once, when the first trainer needs it.
    """
    factors: list[tuple[Tensor, Tensor]] = []

    def begin(config: TrainConfig, found: tuple[dict[str, Tensor], dict] | None) -> Trainer:
        if config.recipe == "mrl4rec":
            trainer = Trainer(config, positives, device)
        else:
            if not factors:
                sweeps = []
                factors.append(fit_least_squares(config, positives.to(device), on_sweep=sweeps.append))
                if found is None:
                    state.rows += [{"phase": SWEEPS} | row for row in sweeps]
                say(f"least squares: {len(sweeps)} sweeps, {sum(row['seconds'] for row in sweeps):.1f} s")
            on_row = state.rows.append if found is None else None
            trainer = Trainer(config, positives, device, start_model(config, positives.to(device), factors[0], on_row))
        if found is not None:
            trainer.load_state(found[0])
        return trainer

    return begin


def _search(trainer: Trainer, data: Interactions, state: _State, save: Callable, progress: bool) -> None:
    """Train with validation every few epochs until it stops getting better."""
    config = trainer.config
    bar = tqdm(total=config.epochs, initial=trainer.epoch, desc="search", unit="epoch", disable=not progress)
    with bar:
        while trainer.epoch < config.epochs and state.waited < config.patience:
            row = _epoch(trainer, SEARCH)
            if trainer.epoch % config.eval_every == 0 or trainer.epoch == config.epochs:
                state.validate(trainer, data, row, save)
            else:
                state.rows.append(row)
            bar.set_postfix(
                {"loss": f"{row['loss']:.4f}", config.monitor: f"{max(state.best_value, 0):.4f}"}, refresh=False
            )
            bar.update()


def _refit(trainer: Trainer, state: _State, save: Callable, progress: bool) -> None:
    """Train on all of train for as many epochs as the search found best."""
    bar = tqdm(total=state.best_epoch, initial=trainer.epoch, desc="refit", unit="epoch", disable=not progress)
    with bar:
        while trainer.epoch < state.best_epoch:
            row = _epoch(trainer, REFIT)
            state.rows.append(row)
            if trainer.epoch % trainer.config.eval_every == 0:
                save(trainer)
            bar.set_postfix(loss=f"{row['loss']:.4f}", refresh=False)
            bar.update()


def _epoch(trainer: Trainer, phase: str) -> dict:
    begun = time.perf_counter()
    loss, by_level = trainer.run_epoch()
    levels = {f"loss_w{width}": value for width, value in zip(trainer.config.widths, by_level, strict=True)}
    return _row(trainer, phase, time.perf_counter() - begun) | {"loss": loss} | levels


def _row(trainer: Trainer, phase: str, seconds: float) -> dict:
    row = {"phase": phase, "epoch": trainer.epoch, "seconds": seconds}
    return row | ({"shares": str(list(trainer.config.shares))} if trainer.config.shares else {})


def _identity(config: TrainConfig, data: Interactions) -> dict:
    """What a checkpoint must share with the run that wants to go on from it."""
    settings = {name: value for name, value in config.to_dict().items() if name not in ELSEWHERE}
    return {"fingerprint": data.fingerprint, "widths": list(config.widths), "settings": settings}


def _silent(words: str) -> None:
    pass


def _short(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.4g}"


def peak_memory_mib() -> float:
    """The most memory this process has held so far, MiB (ru_maxrss: KiB on Linux, bytes on macOS)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
