"""What training in several processes takes: measured here, `mrl.distributed.cost` fitted to it, and on paper.

Processes are started by the launcher of torchrun, with a thread each. Of repeats the least seconds count: whatever else
a machine does only adds to them. Where it does much they are those of a processor, in which waiting does not count.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from dataclasses import fields
from typing import Annotated, Any, Literal

import numpy as np
import polars as pl
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from mrl.config import TrainConfig
from mrl.data import planted_interactions
from mrl.distributed.cost import EVALUATION, EVALUATION_MEMORY, MEMORY, SWEEP, Load, Machine, fit_factors
from mrl.distributed.data import ShardedData, load_sharded
from mrl.distributed.evaluation import evaluate
from mrl.distributed.least_squares import ials
from mrl.errors import ConfigError, RunError
from mrl.evaluation import evaluate as plain_evaluate
from mrl.figures.style import GREY, PALETTE, check_table, key, legend_above, panel_grid, styled
from mrl.least_squares.ials import CHUNK
from mrl.parameters import PathText, settings
from mrl.sharded.cost import EPOCH, EpochLoad
from mrl.sharded.epochs import ShardedTrainer
from mrl.sharded.group import Group, join, leave
from mrl.sharded.rows import shard
from mrl.widths import check_widths
from mrl.words import MARKERS

KINDS = dict.fromkeys((SWEEP, EVALUATION, EPOCH), "seconds") | dict.fromkeys((MEMORY, EVALUATION_MEMORY), "bytes")
UNIT = {"seconds": "seconds", "bytes": "GiB"}
SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT") if hasattr(signal, name)]
CLOCKS = {"processor": time.process_time, "wall": time.perf_counter}
FLOPS_SIDE, COPIED, GATHERED = 1024, 2**27, 2**24  # a product's rows, bytes copied, bytes sent, to measure a machine
POPULARITY = 0.8  # an item's share falls with its rank to this power, in planted data and on paper


@settings
class ScaleConfig:
    """Parameters of `notebooks/scale.ipynb`.

    sizes: interactions of the planted data that are fitted; held_out: of those that are predicted. users, items: of
    data of a million interactions; fewer or more with the root of the size. processes, widths: each with each. repeats:
    the least counts. clock: processor, seconds of a core whatever else wants it; wall, where nothing else runs.
    memory_sizes, memory_held_out: likewise, of data as on paper, by which memory is measured; memory_width: dimensions.

    On paper, machines: how many; large: interactions; large_users, large_items: of 10⁸, users with the size and items
    with its root; large_width: dimensions; large_batch: positives a step of an epoch. cores: processes of a machine,
    with a thread each. flops: of a core, a second. memory_bandwidth, bandwidth (of the network): bytes a second, of a
    machine. latency: seconds.

    report, figure: empty for the project's.
    """

    sizes: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (100_000, 250_000, 1_000_000)
    held_out: PositiveInt = 500_000
    users: PositiveInt = 20_000
    items: PositiveInt = 1_000
    processes: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (1, 2)
    widths: tuple[PositiveInt, ...] = (32, 128)
    repeats: PositiveInt = 3
    clock: Literal["processor", "wall"] = "processor"
    memory_sizes: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (2_000_000, 5_000_000)
    memory_held_out: PositiveInt = 20_000_000
    memory_width: PositiveInt = 64
    seed: NonNegativeInt = 0
    machines: tuple[PositiveInt, ...] = (8, 64)
    large: tuple[PositiveInt, ...] = (10**8, 10**9)
    large_users: PositiveInt = 1_000_000
    large_items: PositiveInt = 200_000
    large_width: PositiveInt = 128
    large_batch: PositiveInt = 65_536
    cores: PositiveInt = 16
    flops: PositiveFloat = 1e11
    memory_bandwidth: PositiveFloat = 4e11
    bandwidth: PositiveFloat = 3e9
    latency: PositiveFloat = 5e-5
    report: PathText = ""
    figure: PathText = ""

    def __post_init__(self) -> None:
        check_widths(self.widths)
        for held_out, sizes in (("held_out", "sizes"), ("memory_held_out", "memory_sizes")):
            if (size := getattr(self, held_out)) in getattr(self, sizes):
                raise ConfigError(f"{held_out}={size}: is one of {sizes}; give another, so that it is predicted")

    @property
    def assumed(self) -> Machine:
        """What a process has of an assumed machine: one of its cores, and its share of the rest."""
        return Machine(self.flops, self.memory_bandwidth / self.cores, self.bandwidth / self.cores, self.latency)

    def planted(self, interactions: int) -> dict[str, Any]:
        """Settings of planted data, equally dense whatever the size; of few branches, so that some items have many."""
        share = (interactions / 1e6) ** 0.5
        users, items = round(self.users * share), round(self.items * share)
        return {"num_users": users, "num_items": max(items, 64), "interactions": interactions, "branching": (2,)}

    def at_large(self, interactions: int) -> tuple[int, int]:
        """Users and items of so many interactions on paper."""
        return round(self.large_users * interactions / 1e8), round(self.large_items * (interactions / 1e8) ** 0.5)


def measure_scale(config: ScaleConfig) -> tuple[pl.DataFrame, Machine]:
    """A row a load, of every size, number of processes and width; and what a process has of this machine.

    Columns: those of `Load`; held_out; `sweep`, `evaluation` and `epoch` (of mrl4rec), seconds; with ` sent` bytes of a
    process on average. Memory is measured by `mrl.benchmark.memory`.
    """
    rows, speeds = [], []
    for processes in config.processes:
        found, speed = in_processes(processes, measure_sizes, config)[0]
        rows += found
        speeds.append(speed)
    best = {name: [speed[name] for speed in speeds if speed[name] is not None] for name in speeds[0]}
    fast = {name: max(best[name], default=1.0) for name in ("flops", "memory_bandwidth", "bandwidth")}
    return pl.DataFrame(rows), Machine(**fast, latency=min(best["latency"], default=1.0))


def in_processes(processes: int, work: Callable, *arguments: object) -> list:
    """What work(group, *arguments) returns in each of so many processes, in their order, as torchrun starts them.

    Raises RunError, with its last words, where a process fails.
    """
    launch = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=processes, rdzv_backend="c10d", rdzv_endpoint="localhost:0",
        run_id=f"scale-{time.time_ns()}", max_restarts=0, monitor_interval=0.2,
    )  # fmt: skip
    handlers = {each: signal.getsignal(each) for each in SIGNALS}
    try:
        results = elastic_launch(launch, _joined)(work, *arguments)
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        said = str(failure.message).strip().splitlines()[-1]
        raise RunError(f"process {failure.local_rank} of {processes}: {said}") from None
    finally:  # the launcher leaves handlers of its own, which would take Ctrl-C from whoever called
        if threading.current_thread() is threading.main_thread():
            for each, handler in handlers.items():
                signal.signal(each, handler)
    return [results[rank] for rank in range(processes)]


def _joined(work: Callable, *arguments: object) -> object:
    torch.set_num_threads(1)
    group = join("cpu")
    try:
        return work(group, *arguments)
    finally:
        leave()


def measure_sizes(group: Group, config: ScaleConfig) -> tuple[list[dict], dict[str, float | None]]:
    """The rows of all sizes, the smallest first, by a number of processes, and what each has of this machine."""
    small, rows = planted_interactions(50, 64, 1000), []
    plain_evaluate(torch.ones(small.num_users, 4), torch.ones(small.num_items, 4), small, widths=(4,))  # compiles
    for interactions in sorted((*config.sizes, config.held_out)):
        training = TrainConfig(
            dataset="planted", planted=config.planted(interactions), recipe="least_squares", widths=config.widths,
            seed=config.seed, processes=group.size,
        )  # fmt: skip
        data = load_sharded(training, group).merge_valid()
        found = [_measure_width(data, width, config) for width in config.widths]
        rows += [row | {"held_out": interactions == config.held_out} for row in found]
    return rows, _speed(group, config)


def _measure_width(data: ShardedData, width: int, config: ScaleConfig) -> dict:
    group, train = data.group, data.own.train
    made = shard(group, train, data.users, width=width)
    generator = torch.Generator().manual_seed(config.seed)
    counts = made.by_user.counts, made.by_item.counts
    start = tuple(torch.randn(len(rows), width, generator=generator) * 0.1 for rows in counts)
    seconds, sent, factors = _least(group, config, lambda: ials(made, start, alpha0=0.1, l2=0.01, nu=1.0, sweeps=1))
    long = sum(int(rows[rows >= max(width, CHUNK // width)].sum()) for rows in counts)
    row = {"users": data.num_users, "items": data.num_items, "interactions": sum(group.each(len(train)))}
    row |= {"width": width, "processes": group.size, "long": sum(group.each(long)), "machines": 1}
    row |= {SWEEP: seconds, f"{SWEEP} sent": sent}
    widths = levels_of(width)
    seconds, sent, _ = _least(group, config, lambda: evaluate(data, factors, made.items, split="test", widths=widths))
    row |= {EVALUATION: seconds, f"{EVALUATION} sent": sent}
    training = TrainConfig(dataset="planted", recipe="mrl4rec", widths=widths, seed=config.seed, device="cpu")
    seconds, sent, _ = _least(group, config, ShardedTrainer(training, group, train, data.users).run_epoch)
    return row | {EPOCH: seconds, f"{EPOCH} sent": sent}


def levels_of(width: int) -> list[int]:
    """Of a fit of so many dimensions, the widths that are evaluated, and trained by epochs."""
    return [each for each in (width // 4, width // 2, width) if each]


def _least(group: Group, config: ScaleConfig, work: Callable) -> tuple[float, float, Any]:
    """Least seconds of the slowest process, bytes that a process sends on average, and what comes out.

    The first time does not count.
    """
    now, seconds = CLOCKS[config.clock], []
    for _ in range(config.repeats + 1):
        group.each(0)  # all begin together
        before, started = group.sent, now()
        result = work()
        sent, taken = group.sent - before, now() - started
        seconds.append(group.largest(taken))
    return min(seconds[1:]), sum(group.each(sent)) / group.size, result


def _speed(group: Group, config: ScaleConfig) -> dict[str, float | None]:
    """What this process has of the machine: `Machine` by name; None for the network where there is one process."""
    side, sending = torch.ones(FLOPS_SIDE, FLOPS_SIDE), torch.ones(GATHERED // 4)
    source, few = torch.ones(COPIED // 4), [len(sending)] * group.size
    product, target = torch.empty_like(side), torch.empty_like(source)
    speed = {
        "flops": 2 * FLOPS_SIDE**3 / _least(group, config, lambda: torch.mm(side, side, out=product))[0],
        "memory_bandwidth": 2 * COPIED / _least(group, config, lambda: target.copy_(source))[0],
    }
    if group.size == 1:
        return speed | {"bandwidth": None, "latency": None}
    seconds = _least(group, config, lambda: group.gather(sending, few))[0]
    speed["bandwidth"] = GATHERED * (group.size - 1) / seconds
    return speed | {"latency": _least(group, config, lambda: group.largest(0.0))[0]}


def fit_scale(
    measured: pl.DataFrame, memory: pl.DataFrame, machine: Machine
) -> tuple[pl.DataFrame, dict[str, np.ndarray]]:
    """What was measured beside what `fit_factors` predicts of all, fitted to what is not held out; and the factors.

    measured, memory: of `measure_scale` and `measure_sharded_memory`.
    Columns of a row: those of `Load`, held_out, quantity (a key of KINDS, or its bytes sent, which are not fitted),
    measured, predicted, error (a share of measured).
    """
    factors, rows = {}, []
    names = [*(field.name for field in fields(Load)), "held_out"]
    for kind, unit in KINDS.items():
        table = (memory if unit == "bytes" else measured).drop_nulls(kind)
        fitted = [number for number, held_out in enumerate(table["held_out"]) if not held_out]
        found, loads = table[kind].to_list(), [_load(kind, row) for row in table.to_dicts()]
        factors[kind] = fit_factors(kind, [loads[n] for n in fitted], [found[n] for n in fitted], machine)
        predicted = [load.predict(kind, machine, factors[kind]) for load in loads]
        rows += [
            row | {"quantity": kind, "measured": of, "predicted": by}
            for row, of, by in zip(table.select(names).to_dicts(), found, predicted, strict=True)
        ]
    for kind, sent in ((SWEEP, Load.sent_by_sweep), (EVALUATION, Load.sent_by_evaluation), (EPOCH, EpochLoad.sent)):
        rows += [
            row | {"quantity": f"{kind} sent", "measured": float(of), "predicted": float(sent(_load(kind, row)))}
            for row, of in zip(measured.select(names).to_dicts(), measured[f"{kind} sent"], strict=True)
            if row["processes"] > 1
        ]
    error = (pl.col("predicted") / pl.col("measured") - 1).alias("error")
    return pl.DataFrame(rows, schema_overrides={"measured": pl.Float64}).with_columns(error), factors


def _load(kind: str, row: dict) -> Load | EpochLoad:
    if kind == EPOCH:
        sizes = {name: row[name] for name in ("users", "items", "interactions", "processes")}
        return EpochLoad(**sizes, widths=levels_of(row["width"]))
    return Load(**{field.name: row[field.name] for field in fields(Load)})


def scale_errors(table: pl.DataFrame) -> pl.DataFrame:
    """Of each quantity the largest error, of what was fitted and of what was held out, as shares of measured."""
    error = pl.col("error").abs().max()
    return table.group_by("quantity", "held_out", maintain_order=True).agg(error.alias("largest_error"))


def predict_scale(config: ScaleConfig, factors: dict[str, np.ndarray]) -> pl.DataFrame:
    """On paper: seconds, bytes sent by a machine, and memory of a machine, of each of `large` on each of `machines`.

    Items as popular as planted ones, none more than the users there are; every user is evaluated, at one width.
    """
    rows = []
    for interactions in config.large:
        users, items = config.at_large(interactions)
        for machines in config.machines:
            processes = machines * config.cores
            counts = np.arange(1, items + 1) ** -POPULARITY
            counts = np.minimum(counts * (interactions / counts.sum()), users)
            long = round(counts[counts >= max(config.large_width, CHUNK // config.large_width)].sum())
            load = Load(users, items, interactions, config.large_width, processes, long, machines)
            levels, batch = levels_of(config.large_width), config.large_batch
            epoch = EpochLoad(users, items, interactions, levels, batch_size=batch, processes=processes)
            row = {"interactions": interactions, "users": users, "items": items, "width": config.large_width}
            row |= {"machines": machines, "processes": processes}
            for kind, unit in KINDS.items():
                value = (epoch if kind == EPOCH else load).predict(kind, config.assumed, factors[kind])
                row[f"{kind}, {UNIT[unit]}"] = value * (config.cores / 2**30 if unit == "bytes" else 1)
            row |= {"sweep sent, GiB": load.sent_by_sweep() * config.cores / 2**30}
            row |= {"evaluation sent, GiB": load.sent_by_evaluation() * config.cores / 2**30}
            rows.append(row | {"epoch sent, GiB": epoch.sent() * config.cores / 2**30})
    return pl.DataFrame(rows)


@styled
def draw_scale(table: pl.DataFrame, *, size: str = "page") -> Figure:
    """Predicted against measured, a panel for each of KINDS; of `fit_scale`. What was held out is hollow."""
    table = check_table(table, "quantity", "measured", "predicted", "held_out", "processes")
    figure, axes = panel_grid(size, len(KINDS), 2.1, most=2)
    processes = table["processes"].unique().sort().to_list()
    for ax, (kind, unit) in zip(axes, KINDS.items(), strict=True):
        part, scale = table.filter(quantity=kind), 1.0 if unit == "seconds" else 2.0**30
        for number, count in enumerate(processes):
            for held_out in (False, True):
                points = part.filter(processes=count, held_out=held_out)
                face = "none" if held_out else PALETTE[number]
                look = {"color": PALETTE[number], "marker": MARKERS[number], "markerfacecolor": face}
                ax.plot(points["measured"] / scale, points["predicted"] / scale, linestyle="none", **look)
        ends = [part.select(pl.min_horizontal("measured", "predicted").min()).item() / scale / 1.2]
        ends.append(part.select(pl.max_horizontal("measured", "predicted").max()).item() / scale * 1.2)
        ax.plot(ends, ends, color=GREY, linewidth=0.8, zorder=1)
        ax.set(xlim=ends, ylim=ends, title=kind, xlabel=f"measured, {UNIT[unit]}", ylabel="predicted")
        if unit == "seconds":
            ax.set(xscale="log", yscale="log")
            for axis in (ax.xaxis, ax.yaxis):
                axis.set_major_locator(LogLocator(10, subs=(1, 3)))
                axis.set_minor_locator(NullLocator())
                axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    names = [f"{count} process{'es' * (count > 1)}" for count in processes]
    handles = [key(PALETTE[n], marker=MARKERS[n], linestyle="none") for n in range(len(processes))]
    hollow = key(GREY, marker="o", linestyle="none", markerfacecolor="none")
    legend_above(figure, [*handles, hollow], [*names, "held out"])
    return figure
