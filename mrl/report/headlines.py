"""The story of a run on some two printed pages: how good each width is, which one to take, what each stage
of the recipe gives, what the dimensions know.

Every sentence is computed from the table that the figure or table above it shows. What `notebooks/report.ipynb` puts on
top of its page; the rest of the page is the executed notebooks.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import polars as pl
from matplotlib.figure import Figure

from mrl.analysis.profile import describe_accuracy
from mrl.analysis.sentences import rank_models
from mrl.figures import draw_accuracy, draw_alluvial, draw_block_probes, draw_cluster_quality, select_models
from mrl.hierarchy import describe
from mrl.report.ablation import summarise_stages
from mrl.runs import Run
from mrl.words import listed, model_names, percent, readable

BASELINES = {  # of figure and table, and what a newcomer has to know of them
    "mrl4rec": "the published method, trained from random numbers",
    "bpr-rotated": "a plain model of the full width, rotated so that its first dimensions hold most: not nested",
    "shared": "nested too, but with one negative for all widths",
    "ials": "least squares, rotated in the same way",
    "alone": "for each width a model of its own",
    "ease": "a linear model from item to item, without vectors, so the same at every width",
    "popularity": "the same list for everybody",
}
BELOW, AHEAD, BEHIND = "▼", "*", "†"
LEVEL = 0.05
ENOUGH = 0.95  # the share of the full width's accuracy that counts as good
COARSE = 3  # widths whose clusters are drawn: more would not fit a printed page; the notebook below has them all


def summarise(run: Run, metrics: pl.DataFrame, tables: Path) -> list[str | Figure]:
    """The story as Markdown and figures.

    metrics: of the model and its controls, see `mrl.controls.metrics_on_test`. tables: the folder with `evaluate/`,
    `ablation/` and `hierarchy/`, the CSV files of those notebooks.
    """
    parts = [
        *_summarise_accuracy(run, metrics, tables / "evaluate"),
        *_summarise_choice(run, tables / "evaluate"),
        *summarise_stages(_read(tables / "ablation" / "stages.csv")),
        *_summarise_hierarchy(run, tables / "hierarchy"),
    ]
    return [part for part in parts if not isinstance(part, str) or part]


def _summarise_accuracy(run: Run, metrics: pl.DataFrame, tables: Path) -> Iterator[str | Figure]:
    model, widths = run.metrics["model"][0], list(run.config["widths"])
    recall = select_models(metrics.filter(metric="recall", k=20), [model, *BASELINES])
    recall = recall.filter(pl.col("width").is_null() | pl.col("width").is_in(widths))
    names = model_names(recall["model"].unique(maintain_order=True))
    text = f"{len(run.user_ids):,} users, {len(run.item_ids):,} items, {len(run.seen):,} training interactions. "
    text += f"Model: {names[model]}, protocol {recall['protocol'][0]}, seed {run.config['seed']}, "
    yield text + f"{run.environment['wall_seconds'] / 60:.1f} minutes of training on {run.environment['device']}."
    yield "## How good is each width?"
    yield describe_strongest(recall, model)
    yield draw_accuracy(recall, trained=widths, size="page")
    yield describe_accuracy(
        _read(tables / "accuracy.csv").filter(pl.col("width").is_in(widths), metric="recall", k=20, model=model)
    )
    yield table_by_width(recall, model, _read(tables / "compared.csv"))
    text = "Recall@20 is the share of what a user went on to choose, and the model was not shown, that is among its 20 "
    text += f"recommendations; at width {widths[0]} only the first {widths[0]} numbers of every vector are used. "
    text += f"*{names[model]}* is the nested model: one training for all widths. "
    yield text + "The others are baselines:" * (len(names) > 1)
    yield "\n".join(f"- *{names[name]}*: {words}" for name, words in BASELINES.items() if name in names)


def strongest_baselines(recall: pl.DataFrame, model: str) -> pl.DataFrame:
    """A row a width of the model: width, value, baseline, baseline_value, vectors, vectors_value.

    recall: one metric. baseline: the highest other model, those without a width included: they are as good at any.
    vectors: the highest that has vectors of that width. Null where there is none.
    """
    others = recall.filter(pl.col("model") != model)
    rows = []
    for width, value in recall.filter(pl.col("model") == model).select("width", "value").sort("width").iter_rows():
        row = {"width": width, "value": value}
        at_width = others.filter(pl.col("width") == width)
        for name, rivals in {
            "baseline": [at_width, others.filter(pl.col("width").is_null())],
            "vectors": [at_width],
        }.items():
            best = pl.concat(rivals).sort("value", descending=True, maintain_order=True).head(1)
            row[name], row[f"{name}_value"] = best.select("model", "value").row(0) if len(best) else (None, None)
        rows.append(row)
    schema = {"width": pl.Int64, "value": pl.Float64, "baseline": pl.String, "baseline_value": pl.Float64}
    return pl.DataFrame(rows, schema=schema | {"vectors": pl.String, "vectors_value": pl.Float64})


def describe_strongest(recall: pl.DataFrame, model: str) -> str:
    """Where the model is above the strongest baseline of each width, and where that one is ahead, by name; Markdown."""
    table = strongest_baselines(recall, model).drop_nulls("baseline")
    names = model_names(recall["model"].unique(maintain_order=True))
    if not len(table):
        return ""
    lost = table.filter(pl.col("baseline_value") > pl.col("value"))
    won = table.filter(pl.col("baseline_value") <= pl.col("value"))
    sentences = []
    if len(won):
        text = f"**{names[model]} has the highest Recall@20 {_at_widths(won, table)}**"
        sentences.append(f"{text} (strongest baseline: {_against(won, 'baseline', names)}).")
    if len(lost):
        text = f"**A baseline is ahead {_at_widths(lost, table)}**"
        sentences.append(f"{text}: {_against(lost, 'baseline', names)}.")
    hidden = lost.filter(pl.col("baseline") != pl.col("vectors"))  # lost to one that has no vectors to cut
    if len(hidden):
        wins = hidden.filter(pl.col("value") >= pl.col("vectors_value"))
        losses = hidden.filter(pl.col("value") < pl.col("vectors_value"))
        parts = [f"above the strongest {_at_widths(wins)} ({_against(wins, 'vectors', names)})"] * bool(len(wins))
        below = "below it" if len(wins) else "below the strongest"
        parts += [f"{below} {_at_widths(losses)} ({_against(losses, 'vectors', names)})"] * bool(len(losses))
        sentences.append(f"Beside the baselines that have vectors {names[model]} is {listed(parts)}.")
    return " ".join(sentences)


def _at_widths(part: pl.DataFrame, table: pl.DataFrame | None = None) -> str:
    if table is not None and len(part) == len(table):
        return "at every width"
    return f"at width{'s' * (len(part) > 1)} {listed([str(width) for width in part['width']])}"


def _against(part: pl.DataFrame, column: str, names: dict[str, str]) -> str:
    """Each strongest baseline with its values beside the model's: `EASE .3601 against .3073 at 4 and .3422 at 8`."""
    parts = []
    for (baseline,), rows in part.group_by(column, maintain_order=True):
        same = rows[f"{column}_value"].n_unique() == 1 and len(rows) > 1
        numbers = [
            f"{_format(row['value'])} at {row['width']}"
            if same
            else f"{_format(row[f'{column}_value'])} against {_format(row['value'])} at {row['width']}"
            for row in rows.iter_rows(named=True)
        ]
        start = f"{_format(rows[f'{column}_value'][0])} against " if same else ""
        parts.append(f"*{names[baseline]}* {start}{listed(numbers)}")
    return "; ".join(parts)


def table_by_width(recall: pl.DataFrame, model: str, compared: pl.DataFrame) -> str:
    """Recall@20, a row a model and a column a width, as a Markdown table with what its marks mean.

    recall: one metric. compared: of `mrl.analysis.comparison.compare_all`; may be empty. The best of a column is bold.
    The model has a triangle where another row is higher, a star or dagger where it is significantly above or below
    the strongest baseline. A model without a width stands in every column.
    """
    strongest = {row["width"]: row for row in strongest_baselines(recall, model).iter_rows(named=True)}
    names, best = model_names(recall["model"].unique(maintain_order=True)), {}
    for width, row in strongest.items():
        best[width] = max(value for value in (row["value"], row["baseline_value"]) if value is not None)
    lines, marks = [], set()
    for (name,), part in recall.group_by("model", maintain_order=True):
        values = dict(part.group_by("width", maintain_order=True).agg(pl.col("value").mean()).iter_rows())
        cells = []
        for width in strongest:
            value = values.get(width, values.get(None))
            if value is None:
                cells.append("–")
                continue
            text = f"**{_format(value)}**" if value == best[width] else _format(value)
            found = _marks(strongest[width], compared) if name == model else ""
            marks |= set(found)
            cells.append(text + found.replace(AHEAD, r"\*"))
        label = names[name] + (" (no width)" if set(values) == {None} else "")
        lines.append(f"| {label} | {' | '.join(cells)} |")
    head = f"| Recall@20 at width | {' | '.join(map(str, strongest))} |\n|---|{'---:|' * len(strongest)}\n"
    legend = ["Bold: the best of its column."]
    legend += [f"{BELOW} another row is higher."] * (BELOW in marks)
    tested = [rf"\{AHEAD} significantly above"] * (AHEAD in marks) + [f"{BEHIND} significantly below"] * (
        BEHIND in marks
    )
    if tested:
        legend.append(f"{listed(tested)} the strongest baseline (paired by user, Holm's correction over the widths).")
    return f"{head}{chr(10).join(lines)}\n\n{' '.join(legend)}"


def _marks(row: dict, compared: pl.DataFrame) -> str:
    """The marks of the model at a width, a row of `strongest_baselines`."""
    if row["baseline"] is None:
        return ""
    text = BELOW * (row["baseline_value"] > row["value"])
    if len(compared):
        test = compared.filter(pl.col("p_holm") < LEVEL, metric="recall", other=row["baseline"], width=row["width"])
        text += "".join(AHEAD if difference > 0 else BEHIND for difference in test["difference"])
    return text


def _summarise_choice(run: Run, tables: Path) -> Iterator[str]:
    model, widths = run.metrics["model"][0], list(run.config["widths"])
    accuracy = _read(tables / "accuracy.csv").filter(pl.col("width").is_in(widths), metric="recall", k=20, model=model)
    costs = _read(tables / "costs.csv").filter(model=model)
    rows = accuracy.join(costs, on=["model", "width"]).drop_nulls("kept").sort("width")
    if len(rows) < 2:
        return
    yield "## Which width should I take?"
    yield describe_choice(rows, run.advice)
    yield table_of_costs(rows)


def describe_choice(rows: pl.DataFrame, advice: str = "") -> str:
    """The narrowest width that keeps enough of the full width's accuracy, and what the training advised on validation.

    rows: width, value, kept, bytes_per_item, by width.
    """
    good, last = rows.filter(pl.col("kept") >= ENOUGH).row(0, named=True), rows.row(-1, named=True)
    if good["width"] == last["width"]:
        text = f"**Take width {last['width']}**: on test no narrower one keeps {percent(ENOUGH)} of its Recall@20."
    else:
        share = percent(good["width"] / last["width"])
        text = f"**Take width {good['width']}**, the narrowest that on test keeps {percent(ENOUGH)} of the Recall@20 "
        text += f"of width {last['width']}: it keeps {percent(good['kept'])} in {share} of the memory "
        text += f"({good['bytes_per_item']} of {last['bytes_per_item']} bytes an item)."
    return text + (f" The training itself says: {advice}." if advice else "")


def table_of_costs(rows: pl.DataFrame) -> str:
    """A row a width: Recall@20, the share of the full width's, bytes and multiply-adds; a Markdown table."""
    lines = ["| width | Recall@20 | share of it kept | bytes an item | multiply-adds a query |", f"|{'---:|' * 5}"]
    for row in rows.iter_rows(named=True):
        costs = [f"{row[name]:,}" for name in ("bytes_per_item", "multiply_adds")]
        cells = [str(row["width"]), _format(row["value"]), percent(row["kept"]), *costs]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _summarise_hierarchy(run: Run, tables: Path) -> Iterator[str | Figure]:
    model = run.metrics["model"][0]
    numbers, names, flows = (_read(tables / f"{name}.csv") for name in ("numbers", "names", "flows"))
    by_table = {
        name: _drop_empty_columns(select_models(part, [model, *BASELINES]))
        for (name,), part in numbers.group_by("table", maintain_order=True)
    }
    yield "## What do the first dimensions know, and what do the later ones add?"
    if len(probes := _select_probes(by_table["blocks"])):
        yield draw_block_probes(probes)
        yield describe.describe_blocks(probes.filter(model=model))
    if "recovery" in by_table:
        recovery = by_table["recovery"]
        yield draw_cluster_quality(recovery)
        yield describe.describe_recovery(recovery.filter(model=model))
        for (depth,), part in recovery.filter(metric="ami").group_by("label", maintain_order=True):
            yield rank_models(part, f"AMI with {readable(depth)}")
    elif len(flows):
        flows, names = (table.filter(model=model, clustering="by_width") for table in (flows, names))
        coarse = names["width"].unique().sort().head(COARSE)
        flows, names = flows.filter(pl.col("next_width") <= coarse[-1]), names.filter(pl.col("width") <= coarse[-1])
        yield draw_alluvial(flows, names, clustering="by_width")
        yield " ".join([describe.describe_flows(flows, names), describe.describe_clusters(names)])


def _select_probes(blocks: pl.DataFrame) -> pl.DataFrame:
    """Popularity, year and the first label: three panels a reader takes in at once, and what the sentences tell."""
    if "label" not in blocks.columns:
        return blocks.clear()
    labels = blocks["label"].drop_nulls().unique(maintain_order=True).to_list()
    others = [label for label in labels if label not in ("popularity", "year")]
    return blocks.filter(pl.col("label").is_in(["popularity", "year", *others[:1]]))


def _format(value: float) -> str:
    """A metric as tables have it: `.0992`."""
    return f"{value:.4f}".replace("0.", ".", 1)


def _read(path: Path) -> pl.DataFrame:
    return pl.read_csv(path, infer_schema_length=None) if path.is_file() else pl.DataFrame()


def _drop_empty_columns(table: pl.DataFrame) -> pl.DataFrame:
    """Without the columns that only other tables of numbers.csv fill."""
    return table.select(column.name for column in table if column.null_count() < len(column))
