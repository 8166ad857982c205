"""From single measurements of `mrl.benchmark.measure` to its table, to what was claimed, and to a figure."""

from __future__ import annotations

import polars as pl
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from mrl.benchmark.measure import BPR, COPIED, PROJECT
from mrl.figures.style import GREY, PALETTE, canvas, check_table, from_zero, legend_above, styled
from mrl.words import MARKERS

PLACE = ["device", "threads"]
KEYS = ["stage", "dataset", "interactions", "users", "items", "model", "rule", "code", *PLACE]
MAX_MIB = 6 * 1024
GPU_EPOCH_MS, GPU_LARGEST_SECONDS, GPU_EVALUATION_SECONDS = 60.0, 3.0, 10.0  # of a data-centre GPU


def summarise(measured: pl.DataFrame, grown: pl.DataFrame, memory: pl.DataFrame, fits: pl.DataFrame) -> pl.DataFrame:
    """One row for everything that was measured: medians and ranges over repeats.

    seconds: of an epoch over all interactions, or of an evaluation of all users. speedup: the seconds of the plain loop
    in the same repeat (of plain BPR for plain BPR, with rule dns for every other rule, over as many widths in
    evaluation) divided by these. bandwidth_share: the least bytes of an epoch in these seconds, as a share of the speed
    of a copy in memory in the same repeat; above 1 where caches serve. Rows of growth have the stages `grown train` and
    `grown evaluate`. Rows of `mrl.benchmark.fits` have the stage `fit`, and NDCG@20 of test by width.
    """
    rule = pl.when(pl.col("rule").is_in(["", BPR])).then("rule").otherwise(pl.lit("dns"))
    by = ["stage", "model", "against", *PLACE, "repeat"]
    measured = measured.with_columns(against=rule)
    plain = measured.filter(pl.col("code") == "plain").select(*by, plain="seconds")
    measured = measured.join(plain, on=by, how="left").with_columns(speedup=pl.col("plain") / pl.col("seconds"))
    copied = measured.filter(pl.col("stage") == "copy").select(*PLACE, "repeat", limit=2 * COPIED / pl.col("seconds"))
    measured = measured.filter(pl.col("stage") != "copy").join(copied, on=[*PLACE, "repeat"], how="left")
    measured = measured.with_columns(bandwidth_share=pl.col("bytes") / pl.col("seconds") / pl.col("limit"))
    measured = measured.join(
        memory.with_columns(stage=pl.lit("train")), on=["stage", "model", "rule", "code"], how="left"
    )
    grown = grown.with_columns(stage="grown " + pl.col("stage"))
    table = pl.concat([measured, grown, fits], how="diagonal")
    learns = pl.col("stage").str.ends_with("train")
    return (
        table.group_by(KEYS, maintain_order=True)
        .agg(
            repeats=pl.len(),
            seconds=pl.col("seconds").median(),
            seconds_low=pl.col("seconds").min(),
            seconds_high=pl.col("seconds").max(),
            peak_memory_mib=pl.col("peak_memory_mib").max().round(0),
            speedup=pl.col("speedup").median(),
            speedup_low=pl.col("speedup").min(),
            speedup_high=pl.col("speedup").max(),
            bandwidth_share=pl.col("bandwidth_share").median(),
            **{name: pl.col(name).median() for name in fits.columns if name.startswith("ndcg")},
        )
        .with_columns(interactions_per_second=pl.when(learns).then(pl.col("interactions") / pl.col("seconds")).round(0))
        .with_columns(pl.col("^(seconds|speedup|bandwidth|ndcg).*$").round_sig_figs(4))
    )


def check_claims(measured: pl.DataFrame, grown: pl.DataFrame, widths: int) -> pl.DataFrame:
    """What the project claims of its speed, beside what was measured: median and range over repeats, and the limit.

    Columns claim, device, threads, value, low, high, limit, holds. widths: how many were trained and evaluated.
    """
    case = pl.concat_str("stage", "model", "rule", "code", separator="/")
    seconds = measured.with_columns(case=case).pivot("case", index=[*PLACE, "repeat"], values="seconds")
    own, every = pl.col(f"train/mf/dns/{PROJECT}"), pl.col(f"evaluate/all widths//{PROJECT}")
    plain, bpr = pl.col("train/mf/dns/plain"), pl.col(f"train/mf/{BPR}/{PROJECT}")
    published, one = pl.col("evaluate/one width//published"), pl.col(f"evaluate/one width//{PROJECT}")
    claims = [  # a negative limit: at most
        ("training, times as fast as the plain loop", plain / own, 1.8),
        ("training, nested negatives: times the cost of plain BPR", own / bpr, -2.5),
        ("evaluation, times as fast a width as the published way", widths * published / every, 60),
        ("evaluation, all widths: times the cost of one", every / one, -2),
    ]
    tables = [_check(seconds, *claim) for claim in claims]
    tables += [_check_growth(part) for part in grown.partition_by(PLACE, maintain_order=True)]
    gpu = measured.filter(stage="train", model="mf", rule="dns", code=PROJECT, device="cuda")
    claim = "training, nested negatives: milliseconds an epoch"
    tables += [_check(gpu, claim, pl.col("seconds") * 1000, -GPU_EPOCH_MS)] if len(gpu) else []
    value, limit = pl.col("value"), pl.col("limit")
    holds = pl.when(limit > 0).then(value >= limit).otherwise(value <= -limit)
    bound = pl.when(limit > 0).then(pl.lit("at least ")).otherwise(pl.lit("at most "))
    return (
        pl.concat(tables, how="diagonal_relaxed")
        .with_columns(pl.col("value", "low", "high").round_sig_figs(4), holds=holds)
        .select("claim", *PLACE, "value", "low", "high", limit=bound + limit.abs().cast(pl.String), holds="holds")
    )


def _check(table: pl.DataFrame, claim: str, number: pl.Expr, limit: float) -> pl.DataFrame:
    """Columns device, threads, claim, value, low, high, limit; a row a place, over its repeats."""
    columns = {"value": number.median(), "low": number.min(), "high": number.max(), "limit": pl.lit(float(limit))}
    return table.group_by(PLACE, maintain_order=True).agg(claim=pl.lit(claim), **columns)


def _check_growth(grown: pl.DataFrame) -> pl.DataFrame:
    """Columns device, threads, claim, value, limit, of what was measured at one place."""
    train, evaluation = (grown.filter(stage=stage) for stage in ("train", "evaluate"))
    per_million = (pl.col("seconds") / pl.col("interactions") * 1e6).median().alias("per_million")
    sizes = train.group_by("interactions").agg(per_million, pl.col("seconds").median()).sort("interactions")
    spread = sizes["per_million"].max() / sizes["per_million"].min()
    if grown["device"][0] == "cpu":
        claims = {
            "seconds a million interactions, most over least": (spread, -1.5),
            "peak memory of the largest, MiB": (grown["peak_memory_mib"].max(), -MAX_MIB),
        }
    else:
        claims = {
            "seconds an epoch of the largest": (sizes["seconds"][-1], -GPU_LARGEST_SECONDS),
            "seconds to evaluate the largest": (evaluation["seconds"][-1], -GPU_EVALUATION_SECONDS),
        }
    place = grown.select(PLACE).row(0, named=True)
    rows = [
        place | {"claim": f"growth: {claim}", "value": value, "limit": limit}
        for claim, (value, limit) in claims.items()
    ]
    return pl.DataFrame(rows, schema_overrides={"value": pl.Float64, "limit": pl.Float64})


@styled
def draw_speed(table: pl.DataFrame, *, size: str = "page") -> Figure:
    """Speedup over the plain loop, at every place measured, and time and memory as data grow; of `summarise`."""
    check_table(table, "stage", "speedup", "peak_memory_mib")
    figure, ((left, middle, right),) = canvas(size, 2.4, 1, 3)
    cases = [
        ("train", "mf", "dns", "train MF"),
        ("train", "mf", BPR, "plain BPR"),
        ("train", "lightgcn", "dns", "train LightGCN"),
        ("evaluate", "one width", "", "evaluate 1 width"),
        ("evaluate", "all widths", "", "evaluate all"),
    ]
    project = table.filter(pl.col("code") == PROJECT)
    places = project.filter(pl.col("stage") == "train").select(PLACE).unique(maintain_order=True).rows()
    handles: dict[str, object] = {}
    for number, (device, threads) in enumerate(places):
        name = device if device == "cuda" else f"{threads} thread{'s' * (threads > 1)}"
        for place, (stage, model, rule, _) in enumerate(cases):
            row = project.filter(stage=stage, model=model, rule=rule, device=device, threads=threads)
            if len(row) and row["speedup"][0] is not None:
                value, low, high = row.select("speedup", "speedup_low", "speedup_high").row(0)
                y = place + 0.22 * (number - (len(places) - 1) / 2)
                bar = left.errorbar(
                    [value], [y], xerr=[[value - low], [high - value]], color=PALETTE[number], marker=MARKERS[number],
                    linestyle="none", elinewidth=0.8,
                )  # fmt: skip
                handles.setdefault(name, bar)
    left.axvline(1, color=GREY, linewidth=0.6)
    left.set_yticks(range(len(cases)), [label for *_, label in cases])
    left.set_ylim(len(cases) - 0.5, -0.5)
    left.set_xlim(left=0)
    left.set_xlabel("times as fast as plain PyTorch")
    left.grid(False, axis="y")
    table = table.filter(device="cpu")
    grown = table.filter(stage="grown train")
    if len(grown):
        _line(middle, grown, pl.col("seconds") / pl.col("interactions") * 1e6, "seconds a million interactions")
        _line(right, grown, pl.col("peak_memory_mib") / 1024, "peak memory, GiB")
        evaluated = table.filter(stage="grown evaluate")
        _line(right, evaluated, pl.col("peak_memory_mib") / 1024, "peak memory, GiB", number=3)
        right.legend(right.lines, ["train", "evaluate"][: len(right.lines)], loc="lower right")
    legend_above(figure, list(handles.values()), list(handles))
    return figure


def _line(ax, rows: pl.DataFrame, value: pl.Expr, label: str, number: int = 2) -> None:
    rows = rows.sort("interactions")
    ax.plot(
        rows["interactions"],
        rows.select(value).to_series(),
        color=PALETTE[number],
        marker=MARKERS[number],
        markersize=7 if number == 2 else 4,  # what lies on top leaves the other in sight
        clip_on=False,
    )
    ax.set(xscale="log", xlabel="training interactions", ylabel=label)
    ax.xaxis.set_major_locator(LogLocator(10))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda count, _: f"{count / 1e6:g} M"))
    from_zero(ax)
