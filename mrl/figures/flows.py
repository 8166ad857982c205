"""Figures of refinement: an alluvial diagram of clusters through the widths, and the tree of the catalogue.

Tables as `mrl.hierarchy.measure` documents them: `flows` and `names` of one clustering, `tree`.
"""

from __future__ import annotations

from itertools import cycle

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path

from mrl.errors import ConfigError, DataError
from mrl.figures.style import GREY, PALETTE, SMALL, Drawing, check_size, check_table, ink, shorten, styled, text_inches
from mrl.words import MOST, PATH, is_most, percent

LINE = 0.125  # inches between two lines of small text
LEGIBLE = 10  # letters of a title that has to be cut
LEADER = 0.14  # inches from a box to a name that lies higher or lower
PADDING = 0.03  # inches between a text and what it stands in or beside
BOXES = {"page": 0.78, "column": 0.74}  # inches, the width of a box that has its name within
Node = tuple[int, int]  # width, cluster


@styled
def draw_alluvial(flows: pl.DataFrame, names: pl.DataFrame, *, clustering: str = "fixed", size: str = "page") -> Figure:
    """Where the items of each cluster go as the width grows: a column a width, a box a cluster, a ribbon a flow.

    A page has room for the names at five widths, a column for those at three.

    flows: columns width, cluster, next_width, next_cluster, items; names: width, cluster, items, typical, label_share,
    lift, titles; both of one `clustering` where they have that column. Heights are numbers of items. Colours: see
    `inherit_colours`. A box has its name within, and none where it is lower than a line; at the last width beside it,
    with titles, up to some 65; see `cluster_caption` and `spread_names`.
    """
    check_table(flows, "width", "cluster", "next_width", "next_cluster", "items")
    check_table(names, "width", "cluster", "items")
    if "clustering" in flows.columns:
        flows = check_table(flows.filter(pl.col("clustering") == clustering))
    if "clustering" in names.columns:
        names = check_table(names.filter(pl.col("clustering") == clustering))
    sizes = {(row["width"], row["cluster"]): row["items"] for row in names.iter_rows(named=True)}
    links: dict[tuple[Node, Node], int] = {}
    for width, cluster, next_width, next_cluster, count in flows.select(
        "width", "cluster", "next_width", "next_cluster", "items"
    ).iter_rows():
        links[(width, cluster), (next_width, next_cluster)] = count
    unnamed = {node for link in links for node in link} - set(sizes)
    if unnamed:
        raise DataError(f"names has no row for cluster {min(unnamed)[1]} of width {min(unnamed)[0]}, which flows has")
    widths = sorted({width for width, _ in sizes})
    order = untangle(sizes, links, widths)

    inches = check_size(size)
    longest = max(len(column) for column in order.values())
    height = min(max(2.6, longest * 0.19 + 0.5), 8.6)
    figure = Drawing(figsize=(inches, height))
    margin = (0.3 if size == "page" else 0.37) * inches
    ax = _bare_axes(figure, 0.06, 0.05, inches - margin, height - 0.32)
    total = max(sum(sizes[node] for node in column) for column in order.values())
    gap = 0.25 * total / longest
    full_height = total + gap * (longest - 1)
    ax.set(xlim=(0, inches - margin - 0.06), ylim=(full_height, 0))
    boxes = {width: BOXES[size] for width in widths[:-1]} | {widths[-1]: 0.09}
    room = inches - margin - 0.06 - boxes[widths[-1]]
    left = {width: number * room / max(len(widths) - 1, 1) for number, width in enumerate(widths)}
    top: dict[Node, float] = {}
    for column in order.values():
        y = (full_height - sum(sizes[node] for node in column) - gap * (len(column) - 1)) / 2
        for node in column:
            top[node] = y
            y += sizes[node] + gap
    colours = inherit_colours(order, links, sizes)
    _draw_ribbons(ax, order, links, sizes, top, left, colours, boxes)
    for node, y in top.items():
        place = (left[node[0]], y)
        ax.add_patch(Rectangle(place, boxes[node[0]], sizes[node], color=colours[node], linewidth=0, zorder=3))
    for width, x in left.items():
        ax.text(x, -0.012 * full_height, f"width {width}", ha="left", va="bottom", color=GREY)
    words = {(row["width"], row["cluster"]): row for row in names.iter_rows(named=True)}
    line = LINE * full_height / (height - 0.37)  # in items
    look = {"va": "center", "ha": "left", "zorder": 4, "fontsize": SMALL, "clip_on": False}
    for width in widths[:-1]:
        for node in order[width]:
            most = int(sizes[node] / line + 0.2)  # below its last line no space is needed
            lines = box_lines(words[node], boxes[width] - 2 * PADDING, most)
            x, y = left[width] + PADDING, top[node] + sizes[node] / 2
            ax.text(x, y, "\n".join(lines), color=ink(colours[node]), linespacing=1.15, **look)
    last = order[widths[-1]]
    centres = {node: top[node] + sizes[node] / 2 for node in last}
    places = spread_names(last, centres, sizes, line, full_height)
    edge = left[widths[-1]] + boxes[widths[-1]]
    moved = any(abs(y - centres[node]) > 0.1 * line for node, y in places.items())
    x = edge + (LEADER if moved else 0) + PADDING
    for node, y in places.items():
        if moved:
            ax.plot([edge + 0.01, x - 0.02], [centres[node], y], color=GREY, linewidth=0.5, clip_on=False)
        ax.text(x, y, cluster_caption(words[node], True, 0.97 * margin - 0.06 - (x - edge - PADDING)), **look)
    return figure


def _bare_axes(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Axes without a frame at a place in inches, so that text can be fitted before anything is drawn."""
    across, up = figure.get_size_inches()
    ax = figure.add_axes((left / across, bottom / up, width / across, height / up))
    ax.set_axis_off()
    return ax


def untangle(
    sizes: dict[Node, int], links: dict[tuple[Node, Node], int], widths: list[int], sweeps: int = 8
) -> dict[int, list[Node]]:
    """The clusters of each width, top to bottom, so that few ribbons cross: by the mean place of what they come from.

    Sweeps of the barycentre heuristic (Sugiyama, Tagawa, Toda, 1981), to the right and back; the order with the fewest
    crossings (weighted by items) is kept.
    """
    order = {width: sorted((n for n in sizes if n[0] == width), key=lambda n: (-sizes[n], n)) for width in widths}
    best, fewest = dict(order), count_crossings(order, links)
    for sweep in range(sweeps):
        forward = sweep % 2 == 0
        for width in widths[1:] if forward else widths[-2::-1]:
            place = {node: index for column in order.values() for index, node in enumerate(column)}
            weight, pull = dict.fromkeys(order[width], 0), dict.fromkeys(order[width], 0.0)
            for (source, target), count in links.items():
                node, neighbour = (target, source) if forward else (source, target)
                if node in weight:
                    weight[node] += count
                    pull[node] += count * place[neighbour] / max(len(order[neighbour[0]]) - 1, 1)
            mean = {n: pull[n] / weight[n] if weight[n] else 0.5 for n in order[width]}
            order[width] = sorted(order[width], key=lambda n: (mean[n], n))
        if (number := count_crossings(order, links)) < fewest:
            best, fewest = dict(order), number
    return best


def count_crossings(order: dict[int, list[Node]], links: dict[tuple[Node, Node], int]) -> int:
    """Product of the items of every two ribbons that cross, added up."""
    place = {node: index for column in order.values() for index, node in enumerate(column)}
    total = 0
    for width in order:
        ribbons = [(place[a], place[b], count) for (a, b), count in links.items() if a[0] == width]
        if ribbons:
            start, end, count = np.array(ribbons, dtype=np.int64).T
            crossed = (start[:, None] < start) & (end[:, None] > end)
            total += int((crossed * np.outer(count, count)).sum())
    return total


def inherit_colours(order: dict[int, list[Node]], links: dict[tuple[Node, Node], int], sizes: dict[Node, int]) -> dict:
    """A colour a cluster: one of the palette each at the first width, then that of the largest ribbon into it.

    A cluster of most items hands its colour to its largest part only, else the whole diagram would have it; its other
    parts take the next colours of the palette, which begins again where it ends.
    """
    first, *later = order
    next_colours = cycle(PALETTE)
    colours = {node: next(next_colours) for node in order[first]}
    for width in later:
        passed_on = set()  # colours of clusters of most items
        total = sum(sizes[node] for node in order[width])
        for node in sorted(order[width], key=lambda node: (-sizes[node], node)):
            into = {source: count for (source, target), count in links.items() if target == node}
            source = max(into, key=into.get) if into else None
            if source in passed_on:
                colours[node] = next(next_colours)
            else:
                colours[node] = colours.get(source, GREY)
            if source is not None and sizes[source] > MOST * total:
                passed_on.add(source)
    return colours


def _draw_ribbons(ax: Axes, order, links, sizes, top, left, colours, boxes: dict[int, float]) -> None:
    """Ribbons leave and enter a box in the order of their other ends, so that they do not cross at the box."""
    place = {node: index for column in order.values() for index, node in enumerate(column)}
    leaving, entering = dict(top), dict(top)
    starts, ends = {}, {}
    for link in sorted(links, key=lambda link: (place[link[0]], place[link[1]])):
        starts[link] = leaving[link[0]]
        leaving[link[0]] += links[link]
    for link in sorted(links, key=lambda link: (place[link[1]], place[link[0]])):
        ends[link] = entering[link[1]]
        entering[link[1]] += links[link]
    for link in sorted(links, key=lambda link: links[link]):
        (source, target), count = link, links[link]
        x0, x1 = left[source[0]] + boxes[source[0]], left[target[0]]
        band = ribbon_path(x0, starts[link], x1, ends[link], count)
        ax.add_patch(PathPatch(band, color=colours[source], alpha=0.35, linewidth=0))


def ribbon_path(x0: float, y0: float, x1: float, y1: float, thick: float) -> Path:
    """A closed band from (x0, y0) to (x1, y1), `thick` down, with horizontal ends."""
    middle = (x0 + x1) / 2
    points = [(x0, y0), (middle, y0), (middle, y1), (x1, y1)]
    points += [(x1, y1 + thick), (middle, y1 + thick), (middle, y0 + thick), (x0, y0 + thick), (x0, y0)]
    curve = [Path.CURVE4] * 3
    return Path(points, [Path.MOVETO, *curve, Path.LINETO, *curve, Path.CLOSEPOLY])


def spread_names(
    column: list[Node], centres: dict[Node, float], sizes: dict[Node, int], line: float, height: float
) -> dict[Node, float]:
    """Where the names of a column go, a line apart, in its order, as near to their boxes as least squares can.

    Where the height has no room for all, the largest clusters are named.
    """
    from scipy.optimize import isotonic_regression  # a fifth of the import of all figures, and only of this one

    largest = sorted(column, key=lambda node: (-sizes[node], node))[: max(int(height / line), 1)]
    named = [node for node in column if node in largest]
    steps = line * np.arange(len(named))
    low, high = line / 2, height - line / 2 - steps[-1]
    fitted = isotonic_regression([centres[node] for node in named] - steps).x
    return dict(zip(named, fitted.clip(low, max(low, high)) + steps, strict=True))


def cluster_caption(row: dict, with_titles: bool, room: float) -> str:
    """`War 38 % (×8): Platoon; Glory`: the first label, its share of the cluster's items and how many times its share
    of the catalogue that is, and whole titles, as many as fit `room` inches. More labels where there is room and no
    title. A cluster of most items is `62 % of items`; one without a typical label has its titles alone.

    row: of a table of names.
    """
    titles = (row.get("titles") or "").split("; ")
    if not row.get("typical") and not is_most(row):
        return _join_fitting(titles, "; ", room) or shorten(titles[0], room)
    openings = _openings(row)
    titles = [title.replace(f"{openings[-1]} #", "#") for title in titles]  # of branch 3·28: branch 3·28 #500
    named = next((text for text in openings if text_inches(text) <= room), "") or shorten(openings[-1], room)
    if not with_titles or titles == [""]:
        return named
    shorter = [text for text in openings if is_most(row) or " / " not in text]
    for opening in shorter:  # rather a whole title than a second label, or than numbers
        if listed := _join_fitting(titles, "; ", room - text_inches(f"{opening}: ") - 0.05):
            return f"{opening}: {listed}"
    cut = shorten(titles[0], room - text_inches(f"{openings[-1]}: ") - 0.05)
    return f"{openings[-1]}: {cut}" if len(cut) >= LEGIBLE else named


def box_lines(row: dict, room: float, most: int) -> list[str]:
    """The name of a cluster in at most `most` lines of `room` inches: its labels, then their share and lift."""
    if most < 1:
        return []
    if not row.get("typical") or is_most(row) or most == 1:
        named = cluster_caption(row | ({"titles": ""} if row.get("typical") else {}), False, room)
        return [named] if named else []
    first = row["typical"].split(" / ")[0]
    lines = [first if text_inches(first) <= room else shorten(first, room), _strength(row)]
    return [line for line in lines if line and text_inches(line) <= room]


def _openings(row: dict) -> list[str]:
    """How a caption may begin, the fullest first: labels with the share and lift of the first, without, it alone, and
    of a path its last part."""
    if is_most(row):
        share = percent(row["share"])
        return [f"{share} of items", share]
    labels, strength = row["typical"].split(" / "), _strength(row)
    first = f"{labels[0]} {strength}".strip()
    last = labels[0].rpartition(PATH)[2]
    return list(dict.fromkeys([" / ".join([first, *labels[1:]]), first, " / ".join(labels), labels[0], last]))


def _strength(row: dict) -> str:
    """`38 % (×8)`: the share of the first label in the cluster, and its lift; empty where the table has them not."""
    share, lift = row.get("label_share"), row.get("lift")
    if share is None or lift is None:
        return ""
    return f"{percent(share)} (×{lift:.{0 if lift >= 2.95 else 1}f})"


def _join_fitting(parts: list[str], joint: str, room: float) -> str:
    """As many of the parts, joined, as fit; empty where not even the first does."""
    texts = (joint.join(parts[:number]) for number in range(len(parts), 0, -1))
    return next((text for text in texts if text_inches(text) <= room), "")


@styled
def draw_tree(tree: pl.DataFrame, *, max_leaves: int | None = None, size: str = "page") -> Figure:
    """The tree of the catalogue: all items, split at every width, each branch with its typical labels and titles.

    tree: columns node, parent, level, width, items, typical, titles. Drawn as deep as there are at most `max_leaves`
    branches, by default 32 on a page and 12 in a column; the thickness of a branch is its share of the items.
    """
    check_table(tree, "node", "parent", "level", "width", "items")
    max_leaves = max_leaves or (32 if size == "page" else 12)
    levels = [level for level in range(tree["level"].max() + 1) if (tree["level"] == level).sum() <= max_leaves]
    if not levels:
        raise ConfigError(f"max_leaves={max_leaves}: the first level already has {(tree['level'] == 0).sum()} branches")
    tree = tree.filter(pl.col("level") <= levels[-1])
    rows = {row["node"]: row for row in tree.iter_rows(named=True)}
    children: dict[str | None, list[str]] = {}
    for name, row in rows.items():
        children.setdefault(row["parent"], []).append(name)
    height_of: dict[str | None, float] = {}
    leaves: list[str] = []

    def place_branch(name: str | None) -> float:
        below = [place_branch(child) for child in children.get(name, ())]
        if not below:
            leaves.append(name)
        height_of[name] = (below[0] + below[-1]) / 2 if below else len(leaves) - 1.0
        return height_of[name]

    place_branch(None)
    inches = check_size(size)
    height = 0.35 + max(len(leaves), 4) * 0.165
    figure = Drawing(figsize=(inches, height))
    depth = levels[-1] + 1
    text_room = inches * (0.42 if size == "page" else 0.5)
    root_room = 0.08
    step = (inches - text_room - root_room) / depth
    ax = _bare_axes(figure, 0.0, 0.04, inches, height - 0.28)
    ax.set(xlim=(0, inches), ylim=(len(leaves) - 0.5, -0.5))
    total = sum(rows[name]["items"] for name in children[None])
    roots = dict(zip(children[None], (PALETTE[n % len(PALETTE)] for n in range(len(children[None]))), strict=True))
    colours: dict[str, str] = {}
    for name, row in rows.items():  # parents come before children
        colours[name] = roots.get(name) or colours[row["parent"]]
        x1, y1 = root_room + (row["level"] + 1) * step - 0.05, height_of[name]
        x0, y0 = root_room + row["level"] * step - (0.05 if row["level"] else 0.02), height_of[row["parent"]]
        bend = x0 + 0.3 * step
        curve = Path(
            [(x0, y0), ((x0 + bend) / 2, y0), ((x0 + bend) / 2, y1), (bend, y1), (x1, y1)],
            [Path.MOVETO, Path.CURVE4, Path.CURVE4, Path.CURVE4, Path.LINETO],
        )
        thick = 0.6 + 9 * (row["items"] / total) ** 0.5 / 2
        look = {"edgecolor": colours[name], "linewidth": thick, "alpha": 0.55, "capstyle": "butt"}
        ax.add_patch(PathPatch(curve, facecolor="none", **look))
        if name in children:
            text = cluster_caption(row | ({"titles": ""} if row.get("typical") else {}), False, x1 - bend)
            ax.text(bend, y1 - 0.12, text, va="bottom", ha="left", fontsize=SMALL, zorder=4)
        else:
            text = cluster_caption(row, True, inches - x1 - 0.08 - text_inches(" (9999)"))
            ax.text(x1 + 0.04, y1, f"{text} ({row['items']})", va="center", ha="left", fontsize=SMALL)
    for level in range(depth):
        width = tree.filter(pl.col("level") == level)["width"][0]
        ax.text(root_room + (level + 0.3) * step, -0.75, f"width {width}", va="bottom", ha="left", color=GREY)
    return figure
