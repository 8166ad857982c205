"""Aligned maps of the items at growing widths: coordinates and small multiples; `mrl.report.explore` lets one move.

UMAP (McInnes, Healy, Melville, arXiv 1802.03426) of every prefix, each item tied to itself at the neighbouring widths
(AlignedUMAP of umap-learn), so that what moves between two maps moved in the embedding. Read neighbourhoods off them,
not distances. umap and `mrl.hierarchy` are slow to import, so they are imported only where coordinates are computed.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import polars as pl
from matplotlib.figure import Figure

from mrl.errors import ConfigError
from mrl.figures.style import PALE, canvas, check_size, check_table, key, legend_above, styled
from mrl.words import COLOURS, branch_number, label_colours

OTHER = "other"


def compute_maps(
    items: np.ndarray,
    widths: Sequence[int],
    labels: pl.DataFrame | None = None,
    *,
    label: str = "genres",
    item_ids: Sequence | np.ndarray | None = None,
    seed: int = 0,
    sample: int | None = 1000,
    num_neighbours: int = 15,
    min_dist: float = 0.1,
    epochs: int = 200,
) -> pl.DataFrame:
    """Coordinates of the items on one map a width; the same for the same `seed`.

    items: (I, D); labels: one row an item, with `title` and the column `label` where there are such; sample: at most
    that many items, drawn by `seed`, None for all. Prefixes are scaled to length 1, so direction (taste) counts and
    length (mostly popularity) does not. Rows of zeros (nothing learned) are left out. num_neighbours, min_dist, epochs:
    UMAP's. Returns columns item (raw id or row), width, x, y, label (all labels of the item, joined by `|`), title.
    """
    from mrl.hierarchy import check_items, item_titles, normalise_rows, sample_rows

    items, widths = check_items(items, widths, labels=labels, item_ids=item_ids)
    rows = sample_rows(np.flatnonzero(np.abs(items[:, : widths[0]]).sum(axis=1) > 0), sample, seed)
    if num_neighbours < 2 or len(rows) <= num_neighbours + 1:
        raise ConfigError(f"num_neighbours={num_neighbours}: must be at least 2 and well below the {len(rows)} items")
    ids = np.arange(len(items)) if item_ids is None else np.asarray(item_ids)
    facts = {"item": ids[rows], "label": _join_labels(labels, label, len(items))[rows]}
    facts["title"] = np.array(item_titles(len(items), labels, ids), dtype=object)[rows].tolist()
    maps = _embed([normalise_rows(items[rows, :width]) for width in widths], seed, num_neighbours, min_dist, epochs)
    order = ["item", "width", "x", "y", "label", "title"]
    return pl.concat(
        pl.DataFrame(facts | {"x": place[:, 0], "y": place[:, 1]}).with_columns(width=pl.lit(width)).select(order)
        for width, place in zip(widths, maps, strict=True)
    )


def _join_labels(labels: pl.DataFrame | None, label: str, num_items: int) -> pl.Series:
    if labels is None or label not in labels.columns:
        return pl.Series([""] * num_items)
    from mrl.hierarchy import membership, name_branches

    has_label, names = membership(labels[label])
    names = name_branches(label, names)
    return pl.Series(["|".join(names[column] for column in np.flatnonzero(row)) for row in has_label])


def _embed(points: list[np.ndarray], seed: int, num_neighbours: int, min_dist: float, epochs: int) -> list[np.ndarray]:
    """One (n, 2) map a matrix of points (n, d)."""
    identity = {row: row for row in range(len(points[0]))}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a seed means one thread, points that coincide mean a disconnected graph
        import umap

        options = {"n_neighbors": num_neighbours, "min_dist": min_dist, "n_epochs": epochs}
        if len(points) == 1:
            return [umap.UMAP(**options, random_state=seed, transform_seed=seed).fit_transform(points[0])]
        aligned = umap.AlignedUMAP(**options, random_state=seed, transform_seed=seed)
        aligned.fit(points, relations=[identity] * (len(points) - 1))
    # an item without any neighbour has no place: the middle
    return [np.nan_to_num(np.asarray(place, dtype=np.float64)) for place in aligned.embeddings_]


def group_by_label(table: pl.DataFrame, top: int = 6) -> tuple[pl.DataFrame, list[str]]:
    """The table with a column `group`, and the groups: the `top` most frequent labels, then `other`.

    The most frequent first, but branches (`mrl.words.branch_number`) in the order of their numbers, as a tree has them.
    An item of several labels goes to the rarest of those it has among the top ones: it says most about the item.
    """
    if not 1 <= top <= len(COLOURS):
        raise ConfigError(f"top={top}: must be from 1 to {len(COLOURS)}, as many colours as can be told apart")
    items = table.select("item", "label").unique("item", maintain_order=True)
    single = items.select("item", group=pl.col("label").str.split("|")).explode("group").filter(pl.col("group") != "")
    counts = single.group_by("group").len("number").sort(["number", "group"], descending=[True, False]).head(top)
    best = single.join(counts, on="group").sort("number", "group").unique("item", keep="first", maintain_order=True)
    joined = table.join(best.select("item", "group"), on="item", how="left", maintain_order="left")
    joined = joined.with_columns(pl.col("group").fill_null(OTHER))
    present = set(joined["group"])
    names = sorted((name for name in counts["group"] if name in present), key=lambda name: branch_number(name) or 0)
    return joined, names + [OTHER] * (OTHER in present)


def group_colours(groups: Sequence[str]) -> dict[str, str]:
    """The colours of the groups of `group_by_label`, a genre's own wherever it is drawn; the rest is pale."""
    return label_colours(group for group in groups if group != OTHER) | {OTHER: PALE}


@styled
def draw_maps(table: pl.DataFrame, *, top: int = 6, size: str = "page") -> Figure:
    """Small multiples of aligned maps, one a width, coloured by the `top` most frequent labels (see `group_by_label`).

    table: from `compute_maps`. The rest of the items are grey and behind. All maps have the same frame, fitted to
    the middle of the items; the few beyond it (islands far off) are drawn on its edge.
    """
    table, groups = group_by_label(check_table(table, "item", "width", "x", "y", "label"), top)
    widths = table["width"].unique().sort().to_list()
    columns = min(len(widths), 3 if size == "page" else 2)
    rows = -(-len(widths) // columns)
    cell = check_size(size) / columns
    empty_cell = rows * columns > len(widths)  # a place for the legend
    figure, axes = canvas(size, rows * cell + (0.1 if empty_cell else 0.7), rows, columns)
    frames = {axis: _frame(table[axis]) for axis in "xy"}
    table = table.with_columns(pl.col(axis).clip(*frame) for axis, frame in frames.items())
    dot = min(max(36 * cell / np.sqrt(len(table) / len(widths)), 1.0), 3.5)  # points: smaller where there are many
    colours = group_colours(groups)
    for ax, width in zip(axes.ravel(), widths, strict=False):
        at_width = table.filter(pl.col("width") == width)
        for group in sorted(groups, key=lambda group: group != OTHER):  # grey behind
            part = at_width.filter(pl.col("group") == group)
            look = {"color": colours[group], "markersize": dot, "markeredgewidth": 0, "label": group}
            ax.plot(part["x"], part["y"], linestyle="none", marker="o", clip_on=False, **look)
        ax.set(xlim=frames["x"], ylim=frames["y"], box_aspect=1, xticks=[], yticks=[], title=f"width {width}")
        ax.grid(False)
        ax.spines[:].set(visible=True, color=PALE)
    for ax in axes.ravel()[len(widths) :]:
        ax.set_axis_off()
    if groups != [OTHER]:
        numbers = dict(table.unique("item")["group"].value_counts().iter_rows())
        handles = [key(colours[group], marker="o", linestyle="none", markersize=5) for group in groups]
        names = [f"{group} ({numbers[group]})" for group in groups]
        if empty_cell:
            axes.ravel()[len(widths)].legend(handles, names, loc="center")
        else:
            legend_above(figure, handles, names, place="lower")
    return figure


def _frame(values: pl.Series) -> tuple[float, float]:
    """Around the middle 94 % of values, with a margin."""
    low, high = np.quantile(values.to_numpy(), (0.03, 0.97))
    margin = 0.15 * (high - low) or 1.0
    return float(low - margin), float(high + margin)
