"""How long training and evaluation take, and in how much memory, beside the yardsticks and as data grow.

Whatever is to be compared runs in turn, repeat by repeat, so that what else the machine does hits all alike, and ratios
are those of one repeat. Yardsticks are timed over a slice (some batches, some users) and scaled to the whole. Memory is
the peak of a process that does nothing else.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from typing import Annotated, Any, Literal

import polars as pl
import torch
from pydantic import Field, NonNegativeInt, PositiveInt

from mrl.benchmark.yardsticks import PlainModel, evaluate_plain, evaluate_published
from mrl.config import TrainConfig
from mrl.data import Interactions, load_data, planted_interactions
from mrl.evaluation import evaluate
from mrl.parameters import PathText, settings
from mrl.runs import peak_memory_mib
from mrl.sampler import RULES
from mrl.trainer import Trainer
from mrl.widths import DEFAULT_WIDTHS, check_widths

BPR = "bpr"  # in place of a rule: plain BPR, the widest width alone, one uniform candidate
PROJECT = "mrl"
MACHINE = "machine"
GROWING = 1_500_000  # interactions a repeat at most, where the data are larger
COPIED = 2**28  # bytes of a copy, by which the bandwidth of memory is measured

Case = tuple[str, str, str]  # backbone, rule, code: published, plain or mrl


@settings
class BenchmarkConfig:
    """Parameters of `notebooks/benchmark.ipynb`.

    dataset, planted: what is trained on. rules, backbones: which. threads: on the CPU; empty for 1 and all cores.
    gpu: measure a CUDA device too where there is one. gpu_batch_size: on it, of growing data. repeats: of everything.
    slice_batches, slice_users: of the yardsticks. sizes: interactions of the planted data sets; num_users, num_items:
    of the largest, fewer with the root of the size, so that all are equally dense. fit_datasets: of whole fits
    (`mrl.benchmark.fits`). report: the table; empty for the
    project's reports/benchmark.csv. figure: likewise.
    """

    dataset: Annotated[PathText, Field(min_length=1)] = "phone"
    planted: dict[str, Any] = Field(default_factory=dict)
    backbones: tuple[Literal["mf", "lightgcn"], ...] = ("mf", "lightgcn")
    rules: tuple[Literal[RULES], ...] = RULES
    widths: tuple[PositiveInt, ...] = DEFAULT_WIDTHS
    candidates: PositiveInt = 16
    batch_size: PositiveInt = 2048
    threads: tuple[PositiveInt, ...] = ()
    gpu: bool = True
    gpu_batch_size: PositiveInt = 32768
    repeats: PositiveInt = 5
    slice_batches: PositiveInt = 8
    slice_users: PositiveInt = 64
    sizes: tuple[PositiveInt, ...] = (100_000, 1_000_000, 5_000_000, 20_000_000)
    num_users: PositiveInt = 200_000
    num_items: PositiveInt = 50_000
    fit_datasets: tuple[PathText, ...] = ("ml-100k", "phone")
    seed: NonNegativeInt = 0
    report: PathText = ""
    figure: PathText = ""

    def __post_init__(self) -> None:
        check_widths(self.widths)

    def train_config(self, backbone: str = "mf", rule: str = "dns") -> TrainConfig:
        plain = {"widths": self.widths[-1:], "rule": "rns", "nested_negatives": False}
        sampler = {"topk": min(4, self.candidates), "candidates": 1 if rule == BPR else self.candidates}
        return TrainConfig(
            dataset=self.dataset, planted=self.planted, protocol="paper", backbone=backbone, seed=self.seed,
            batch_size=self.batch_size, sampler=sampler,
            **(plain if rule == BPR else {"widths": self.widths, "rule": rule}),
        )  # fmt: skip

    def least_bytes(self, case: Case, interactions: int) -> int | None:
        """Bytes that an epoch of MF moves to and from memory if no cache helps; None for what is not counted.

        Of each candidate the prefix that is scored is read; of each row of a triplet Adam reads and writes the vector
        and its two moments.
        """
        backbone, rule, code = case
        if code != PROJECT or backbone != "mf" or rule not in ("dns", BPR):
            return None
        nested, widest = rule != BPR, self.widths[-1]
        scored = self.candidates * sum(self.widths) if nested else 0
        rows = 2 + (len(self.widths) if nested else 1)
        return 4 * interactions * (scored + 2 * 3 * rows * widest)

    def places(self) -> list[tuple[str, int]]:
        """(device, threads), where everything is measured."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        places = [("cpu", count) for count in self.threads or sorted({1, cores})]
        return places + ([("cuda", cores)] if self.gpu and torch.cuda.is_available() else [])

    def cases(self, backbone: str) -> list[Case]:
        """What is trained: the yardsticks know uniform and hardest negatives."""
        yardsticks = [("dns", "published"), ("dns", "plain"), (BPR, "plain")]
        own = [(rule, PROJECT) for rule in (*dict.fromkeys(("dns", *self.rules)), BPR)]
        return [(backbone, rule, code) for rule, code in yardsticks + own]


def measure_speed(config: BenchmarkConfig) -> Iterator[pl.DataFrame]:
    """Time training, evaluation and copying memory, place by place: a row a repeat.

    Columns as `measurement` gives them, and `bytes`: as `BenchmarkConfig.least_bytes` has them.
    """
    data = load_data(config.train_config())
    before = torch.get_num_threads()
    try:
        for device, threads in config.places():
            torch.set_num_threads(threads)
            for backbone in config.backbones:
                cases = {case: _training(config, data, case, device) for case in config.cases(backbone)}
                yield _repeated(config, data, "train", cases, device, threads)
            yield _repeated(config, data, "evaluate", _evaluations(config, data, device), device, threads)
            yield _repeated(config, data, "copy", {("", "", MACHINE): _copy(device)}, device, threads)
    finally:
        torch.set_num_threads(before)


def _repeated(
    config: BenchmarkConfig,
    data: Interactions,
    stage: str,
    cases: dict[Case, Callable[[], float]],
    device: str,
    threads: int,
) -> pl.DataFrame:
    rows = []
    for repeat in range(-1, config.repeats):  # the first time round compiles, and fills caches
        for case, run in cases.items():
            seconds = run()
            if repeat >= 0:
                rows.append(measurement(config.dataset, data, stage, case, device, threads, repeat, seconds))
                rows[-1]["bytes"] = config.least_bytes(case, len(data.train))
    return pl.DataFrame(rows, schema_overrides={"bytes": pl.Int64})


def measurement(
    dataset: str, data: Interactions, stage: str, case: Case, device: str, threads: int, repeat: int, seconds: float
) -> dict[str, Any]:
    """One measurement. In evaluation the case is ("one" or "all" widths, "", code); seconds are of a whole epoch."""
    backbone, rule, code = case
    return {
        "stage": stage, "dataset": dataset, "interactions": len(data.train), "users": data.num_users,
        "items": data.num_items, "model": backbone, "rule": rule, "code": code, "device": device, "threads": threads,
        "repeat": repeat, "seconds": seconds,
    }  # fmt: skip


def _timed(work: Callable[[], Any], device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def _copy(device: str) -> Callable[[], float]:
    """Seconds of copying COPIED bytes, read and written, when called."""
    source = torch.zeros(COPIED // 4, dtype=torch.float32, device=device)
    target = torch.zeros_like(source)
    return lambda: _timed(lambda: target.copy_(source), device)


def _training(config: BenchmarkConfig, data: Interactions, case: Case, device: str) -> Callable[[], float]:
    """Seconds of an epoch, when called."""
    backbone, rule, code = case
    settings = config.train_config(backbone, rule)
    slice_ = config.slice_batches * config.batch_size
    if code == PROJECT:
        trainer = Trainer(settings, data.train, torch.device(device))
        if backbone != "mf" and len(trainer.users) > slice_:  # every step is alike, and there are many
            part = torch.randperm(len(trainer.users))[:slice_].to(device)
            trainer.users, trainer.items = trainer.users[part], trainer.items[part]
        return lambda: _timed(trainer.run_epoch, device) * len(data.train) / len(trainer.users)
    model = PlainModel(
        data.train, settings.widths, style=code, candidates=settings.sampler.candidates,
        nested=settings.nested_negatives, hops=settings.hops if backbone == "lightgcn" else 0, seed=config.seed,
        device=device,
    )  # fmt: skip
    batches = max(1, config.slice_batches // 4) if code == "published" else config.slice_batches
    used = min(batches * config.batch_size, len(data.train))
    return lambda: _timed(lambda: model.run(config.batch_size, batches), device) * len(data.train) / used


def _evaluations(config: BenchmarkConfig, data: Interactions, device: str) -> dict[Case, Callable[[], float]]:
    """Seconds of an evaluation over all test users, when called."""
    trainer = Trainer(config.train_config(), data.train, torch.device(device))
    trainer.run_epoch()
    users, items = trainer.vectors()
    widths, widest = config.widths, config.widths[-1]
    rows = data.test.counts.nonzero()[:, 0]
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(config.seed))
    some_rows = rows[order[: config.slice_users]].tolist()
    scale = len(rows) / len(some_rows)

    def published() -> float:
        return scale * _timed(lambda: evaluate_published(users, items, data, widest, some_rows), device)

    def plain(*widths: int) -> float:
        return _timed(lambda: [evaluate_plain(users, items, data, width) for width in widths], device)

    def project(*widths: int) -> float:
        return _timed(lambda: evaluate(users, items, data, widths=widths), device)

    return {
        ("one width", "", "published"): published,
        ("one width", "", "plain"): lambda: plain(widest),
        ("all widths", "", "plain"): lambda: plain(*widths),
        ("one width", "", PROJECT): lambda: project(widest),
        ("all widths", "", PROJECT): lambda: project(*widths),
    }


def measure_memory(config: BenchmarkConfig) -> pl.DataFrame:
    """Peak memory of training each backbone by each way, and evaluating; columns model, rule, code, peak_memory_mib."""
    cases = [case for backbone in config.backbones for case in config.cases(backbone) if case[1] in ("dns", BPR)]
    peaks = [(*case, run_in_new_process(_memory, config, case)) for case in cases]
    return pl.DataFrame(peaks, schema=["model", "rule", "code", "peak_memory_mib"], orient="row")


def _memory(config: BenchmarkConfig, case: Case) -> float:
    data = load_data(config.train_config())
    _training(config, data, case, "cpu")()
    return peak_mib()


def measure_growth(config: BenchmarkConfig) -> Iterator[pl.DataFrame]:
    """Train and evaluate planted data of each size in a process of its own, on all cores, and on a GPU: a table each.

    Columns as of `measure_speed`, and peak_memory_mib: with the making of the data, training, and (stage evaluate) all
    widths of every user evaluated; on a GPU its own memory. A repeat trains on GROWING interactions at most, others
    each time, scaled to an epoch.
    """
    for device in dict.fromkeys(device for device, _ in config.places()):
        for size in config.sizes:
            yield pl.DataFrame(run_in_new_process(_grow, config, size, device))


def _grow(config: BenchmarkConfig, size: int, device: str = "cpu") -> list[dict[str, Any]]:
    shrink = (size / max(config.sizes)) ** 0.5
    batch_size = config.batch_size if device == "cpu" else config.gpu_batch_size
    config = replace(config, dataset="planted", batch_size=batch_size)
    case = ("mf", "dns", PROJECT)
    _training(config, planted_interactions(200, 64, 2000), case, device)()  # compiles
    data = planted_interactions(
        round(config.num_users * shrink), round(config.num_items * shrink), size, seed=config.seed
    )
    trainer = Trainer(config.train_config(), data.train, torch.device(device))
    users, positives, rows = trainer.users, trainer.items, []
    threads = torch.get_num_threads()
    for repeat in range(config.repeats):
        part = torch.randperm(len(users))[:GROWING].to(device)
        trainer.users, trainer.items = users[part], positives[part]
        seconds = _timed(trainer.run_epoch, device) * len(users) / len(part)
        rows.append(measurement("planted", data, "train", case, device, threads, repeat, seconds))
        rows[-1]["peak_memory_mib"] = peak_mib(device)
    seconds = _timed(lambda: evaluate(*trainer.vectors(), data, widths=config.widths), device)
    rows.append(measurement("planted", data, "evaluate", ("all widths", "", PROJECT), device, threads, 0, seconds))
    rows[-1]["peak_memory_mib"] = peak_mib(device)
    return rows


def run_in_new_process(work: Callable, *arguments: Any) -> Any:
    """The result of work(*arguments) in a new process, as fresh as a shell would start it."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def peak_mib(device: str = "cpu") -> float:
    """The most memory this process has held, MiB; on a GPU of its own."""
    return peak_memory_mib() if device == "cpu" else torch.cuda.max_memory_allocated() / 2**20
