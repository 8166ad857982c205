"""From settings to a run directory: rounds until validation stops gaining, the same again on all of train, test once.

    from mrl.federated import FederatedConfig, fit_federated
    run = fit_federated(FederatedConfig(dataset="ml-100k", widths=[8, 16, 32]))

The run directory is that of any training (`mrl.runs`): its users are what the clients hold, put into one table by the
simulator, which in earnest nobody has. Beside it is clients.csv, accuracy by client group. Validation chooses the best
round; test is looked at when everything is over, at that round and at the last one.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, fields, replace
from typing import Any, Protocol

import polars as pl
import torch
from torch import Tensor

from mrl.config import ELSEWHERE
from mrl.data import Interactions, Positives, check_held_out, load_data, resolve_dataset
from mrl.evaluation import Evaluation, evaluate, evaluate_scores
from mrl.federated.baselines import Central, alone_scores
from mrl.federated.clients import make_clients
from mrl.federated.config import SHARED, FederatedConfig
from mrl.federated.method import Summation
from mrl.federated.simulator import Simulation
from mrl.federated.tables import CLIENTS, by_client
from mrl.least_squares.climb import grid_value
from mrl.least_squares.usual import usual_point
from mrl.runs import Progress, Run, RunDirectory, check_compatible, load, run_path, write_run

SEARCH, REFIT = "search", "refit"
SAVING = 0.1  # share of the time for checkpoints
WATCHED = ("recall@20", "ndcg@20")


class Rounds(Protocol):
    """What a training goes round by round with: a `Simulation`, or the central model in its place."""

    def round(self) -> dict[str, Any]: ...

    def vectors(self) -> tuple[Tensor, Tensor]: ...

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]: ...

    def load_state(self, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None: ...


@dataclass
class _State:
    """Where a run stands: the phase, the history so far, the best round and the vectors that are kept.

    kept: `best`, of the best round of the search; `final`, of that round again, on all of train.
    """

    phase: str = SEARCH
    rows: list[dict] = field(default_factory=list)
    best_round: int = 0
    last_round: int = 0
    best_value: float = -1.0
    kept: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def restore(cls, tensors: dict[str, Tensor], meta: dict[str, Any]) -> _State:
        kept = {name: tensor for name, tensor in tensors.items() if name.startswith(("best.", "final."))}
        return cls(**{each.name: meta[each.name] for each in fields(cls) if each.name in meta}, kept=kept)

    def meta(self) -> dict[str, Any]:
        return {each.name: getattr(self, each.name) for each in fields(self) if each.name != "kept"}

    def keep(self, name: str, vectors: tuple[Tensor, Tensor]) -> None:
        self.kept |= {f"{name}.users": vectors[0], f"{name}.items": vectors[1]}

    def vectors(self, name: str) -> tuple[Tensor, Tensor]:
        return self.kept[f"{name}.users"], self.kept[f"{name}.items"]


def fit_federated(
    config: FederatedConfig,
    data: Interactions | None = None,
    *,
    summation: Summation | None = None,
    progress: bool = True,
) -> Run:
    """Train in rounds, evaluate and write the run directory; return it, loaded.

    data: as from `load_data(config.training)`, if it is at hand. summation: how uploads become a sum, None for plainly.
    A run that was killed goes on from its last checkpoint, one of the rounds before, to the same numbers
    (`config.resume`). Raises what `mrl.train.fit` raises, for the same reasons.
    """
    config = replace(config, dataset=resolve_dataset(config.dataset))
    training = config.training
    data = load_data(training) if data is None else data
    check_held_out(data, training.split, training.protocol)
    if config.alpha0 is None:  # by the density, of which the server knows the numbers that it is made of
        config = replace(config, alpha0=grid_value(usual_point(data.train)[0]))
    with RunDirectory(run_path(training)) as directory:
        notes = directory.check_data(training, data)
        directory.clear_results()
        shared = {name: value for name, value in training.to_dict().items() if name in SHARED}
        directory.write_config(shared | {"federated": config.to_dict()})
        fitting = _Fitting(config, data, directory, summation, Progress(shown=progress))
        results, vectors, table = fitting.alone() if config.scenario == "alone" else fitting.fit()
        state = fitting.state
        facts = {
            "best_epoch": state.best_round,
            "last_epoch": state.last_round,
            "alpha0": config.alpha0,
            "seconds": round(sum(row["seconds"] for row in state.rows), 3),
            "notes": [*data.notes, *notes],
        }
        directory.write_table(CLIENTS, table)
        history = pl.DataFrame(state.rows, infer_schema_length=None)
        write_run(
            directory, training, data, results, torch.device("cpu"), history=history, vectors=vectors, facts=facts
        )
        directory.drop_checkpoint()
    return load(directory.path)


class _Fitting:
    """A training under way."""

    def __init__(
        self,
        config: FederatedConfig,
        data: Interactions,
        directory: RunDirectory,
        summation: Summation | None,
        progress: Progress,
    ):
        self.config, self.data, self.directory, self.progress = config, data, directory, progress
        self.summation, self.widths = summation, config.training.report_widths
        is_honest = config.training.protocol == "honest"
        # clients keep their width in the refit
        self.sizes = data.train.counts + (data.valid.counts if is_honest else 0)
        self.due = 0.0  # when the next checkpoint is written
        self.checkpoint = directory.load_checkpoint() if config.resume else None
        if self.checkpoint is not None:
            check_compatible(self.checkpoint[1], **self._identity())
        self.state = _State() if self.checkpoint is None else _State.restore(*self.checkpoint)

    def fit(self) -> tuple[list[Evaluation], tuple[Tensor, Tensor], pl.DataFrame]:
        """The search, the refit, and the tests: on validation and test, the vectors of the best round, clients.csv."""
        state, results = self.state, []
        last = self._search() if state.phase == SEARCH else None
        best = state.vectors("best")
        if self.config.training.protocol == "honest":
            results.append(self._evaluate(best, "valid"))
            state.phase = REFIT
            last = self._refit()
            best = state.vectors("final")
        tests = [self._evaluate(vectors, "test") for vectors in (best, last)]
        population = make_clients(self.config, self.data.train, self.sizes)
        moments = zip(("best", "last"), (state.best_round, state.last_round), tests, strict=True)
        parts = [by_client(test, population, moment=moment, round=number) for moment, number, test in moments]
        return [*results, tests[0]], best, pl.concat(parts)

    def alone(self) -> tuple[list[Evaluation], None, pl.DataFrame]:
        """Every client by itself: there are no items that all have in common, so the run has metrics alone."""
        results = []
        for split in ("valid", "test"):
            data = self._data(split)
            population = make_clients(self.config, data.train, self.sizes)
            scores = alone_scores(self.config, population)
            results.append(evaluate_scores(scores, data, split=split, per_user=split == "test"))
        number = self.state.best_round = self.state.last_round = self.config.pace[0]
        self.state.rows.append({"phase": SEARCH, "epoch": number, "bytes_up": 0, "bytes_down": 0, "seconds": 0.0})
        table = [by_client(results[-1], population, moment=moment, round=number) for moment in ("best", "last")]
        return results, None, pl.concat(table)

    def _rounds(self, positives: Positives) -> Rounds:
        """At the start, or where the checkpoint left it."""
        if self.config.scenario == "central":
            rounds: Rounds = Central(self.config, positives)
        else:
            rounds = Simulation(self.config, positives, sizes=self.sizes, summation=self.summation)
        if self.checkpoint is not None:
            rounds.load_state(*self.checkpoint)
            self.checkpoint = None
        return rounds

    def _search(self) -> tuple[Tensor, Tensor]:
        """Rounds with validation until it gains no more, or they are spent; the vectors of the last one."""
        state, config = self.state, self.config
        rounds, (most, between) = self._rounds(self.data.train), config.pace
        vectors = None
        while state.last_round < most and not self._has_ended():
            row = self._round(rounds, SEARCH)
            if row["epoch"] % between == 0 or row["epoch"] == most:
                vectors = rounds.vectors()
                value = self._validate(row, vectors)
                if value > state.best_value:
                    state.best_value, state.best_round = value, row["epoch"]
                    state.keep("best", vectors)
            self._save(rounds)
            self.progress.say(
                SEARCH, f"round {state.last_round} of {most}, best {config.monitor} {state.best_value:.4f}"
            )
        return rounds.vectors() if vectors is None else vectors

    def _has_ended(self) -> bool:
        return self.state.last_round - self.state.best_round >= self.config.patience * self.config.pace[1] > 0 and (
            self.state.best_round > 0
        )

    def _refit(self) -> tuple[Tensor, Tensor]:
        """As many rounds on all of train; the vectors of the best round are kept, those of the last one returned."""
        state = self.state
        rounds, done = self._rounds(self.data.merge_valid().train), sum(row["phase"] == REFIT for row in state.rows)
        while done < state.last_round:
            done = self._round(rounds, REFIT)["epoch"]
            if done == state.best_round:
                state.keep("final", rounds.vectors())
            self._save(rounds)
            self.progress.say(REFIT, f"round {done} of {state.last_round}, on all of train")
        return rounds.vectors()

    def _round(self, rounds: Rounds, phase: str) -> dict[str, Any]:
        row = rounds.round()
        row = {"phase": phase, "epoch": row.pop("round")} | row
        self.state.rows.append(row)
        if phase == SEARCH:
            self.state.last_round = row["epoch"]
        return row

    def _validate(self, row: dict[str, Any], vectors: tuple[Tensor, Tensor]) -> float:
        """Add validation metrics at every width to a row; the one that chooses, of users at their client's width."""
        started = time.perf_counter()
        metrics = dict.fromkeys((*WATCHED, self.config.monitor))
        ks = sorted({int(metric.split("@")[1]) for metric in metrics})
        result = evaluate(*vectors, self.data, split="valid", widths=self.config.widths, ks=ks)
        row |= {f"{metric}_w{width}": result.value(metric, width) for metric in metrics for width in self.config.widths}
        row["seconds_valid"] = time.perf_counter() - started
        return result.value(self.config.monitor, self.config.widths[-1])

    def _evaluate(self, vectors: tuple[Tensor, Tensor], split: str) -> Evaluation:
        return evaluate(*vectors, self._data(split), split=split, widths=self.widths, per_user=split == "test")

    def _data(self, split: str) -> Interactions:
        """The data as they were trained on before this split is looked at."""
        return self.data.merge_valid() if split == "test" and self.config.training.protocol == "honest" else self.data

    def _save(self, rounds: Rounds) -> None:
        """Often enough to lose little, and so seldom that it takes no more than a share of the time."""
        started = time.perf_counter()
        if started < self.due:
            return
        tensors, meta = rounds.state()
        self.directory.save_checkpoint(tensors | self.state.kept, self._identity() | self.state.meta() | meta)
        self.directory.write_history(pl.DataFrame(self.state.rows, infer_schema_length=None))
        self.due = started + (time.perf_counter() - started) / SAVING

    def _identity(self) -> dict[str, Any]:
        """What a checkpoint must share with the run that wants to go on from it."""
        settings = {name: value for name, value in self.config.to_dict().items() if name not in ELSEWHERE}
        return {"fingerprint": self.data.fingerprint, "widths": self.config.widths, "federated": settings}
