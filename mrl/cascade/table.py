"""What a cascade keeps and costs, beside fixed widths, a random mix of two of them, and the oracle.

Every row of the table is a choice of widths: how likely each user (n,) is served at each width of a grid (G,).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations, pairwise

import numpy as np
import polars as pl
import torch
from torch import Tensor

from mrl.cascade.confidence import CONFIDENCES, confidence_at, overlap, widths_compared
from mrl.cascade.thresholds import is_reached
from mrl.data import Positives
from mrl.evaluation import VectorRanking
from mrl.evaluation.evaluate import FORMULAS
from mrl.kernels import mark_hits
from mrl.words import metric_title, percent

WORTH_IT = 0.05  # of the multiply-adds of fixed widths: less is not worth the trouble
WORDS = {
    "overlap": "the overlap of neighbouring lists",
    "rbo": "the rank-biased overlap of neighbouring lists",
    "gap": "the gap after the list",
    "energy": "the energy of the user's vector",
    "margin": "the margin of the list",
    "overlap_energy": "overlap times energy",
}
_SHARES = np.linspace(0, 1, 101)[:, None]  # of users at the wider of two widths


@dataclass(frozen=True)
class View:
    """Users (n,), by row, as some vectors serve them.

    items: (G, n, k) their lists at each width of a grid. sure: kind → (n, L − 1), how sure each list is at the widths
    where a cascade may stop. accuracy: (n, G) of what is chosen by; empty where nothing is.
    """

    rows: Tensor
    items: np.ndarray
    sure: dict[str, np.ndarray]
    accuracy: np.ndarray = field(default_factory=lambda: np.empty((0, 0)))

    def overlap(self) -> np.ndarray:
        """(n, G): the share of the list of the full width that each list holds."""
        return np.stack([overlap(self.items[-1], items) for items in self.items], axis=1)

    def metric(self, targets: Positives, name: str) -> np.ndarray:
        """(n, G): a metric of `mrl.evaluation` on the items to be found, of which every user has some."""
        levels, users, k = self.items.shape
        hits = np.empty(self.items.shape, bool)
        mark_hits(self.items, targets.items.numpy(), targets.offsets.numpy(), self.rows.numpy(), hits)
        relevant = targets.counts[self.rows].double().repeat(levels)
        values = FORMULAS[name](torch.from_numpy(hits.reshape(-1, k)).double(), relevant, (k,))
        return values.reshape(levels, users).T.numpy()

    def take(self, part: slice) -> View:
        """Some of the users."""
        sure = {kind: values[part] for kind, values in self.sure.items()}
        return View(self.rows[part], np.ascontiguousarray(self.items[:, part]), sure, self.accuracy[part])


def look(
    vectors: tuple[Tensor, Tensor],
    rows: Tensor,
    hidden: Sequence[Positives],
    k: int,
    widths: Sequence[int],
    grid: Sequence[int],
) -> View:
    """Users `rows` (n,) as users (U, D) and items (I, D) serve them; grid: what of widths and others is looked at."""
    listed, compared = min(k + 1, len(vectors[1])), widths_compared(tuple(widths))
    looked_at = sorted({*grid, *compared})
    ranking, parts = VectorRanking(*vectors, looked_at), []
    for part in rows.split(ranking.users_per_batch(listed)):
        _, items, scores = zip(*ranking(part, listed, hidden), strict=True)
        parts.append((torch.stack(items), torch.stack(scores)))
    items, scores = (torch.cat(each, dim=1).numpy() for each in zip(*parts, strict=True))
    lists = {width: (items[at], scores[at]) for at, width in enumerate(looked_at)}
    before = {wide: lists[narrow][0] for narrow, wide in pairwise(compared)}
    users, sure = vectors[0][rows].numpy(), {}
    for kind in CONFIDENCES:
        levels = [confidence_at(kind, k, users, width, *lists[width], before.get(width)) for width in widths[:-1]]
        sure[kind] = np.stack(levels, axis=1) if levels else np.empty((len(rows), 0))
    return View(rows, np.stack([lists[width][0][:, :k] for width in grid]), sure)


def at_width(column: np.ndarray | int, users: int, columns: int) -> np.ndarray:
    """(n, G): everybody, or each user (n,), at one column of the grid."""
    return (np.arange(columns) == np.broadcast_to(column, users)[:, None]).astype(np.float64)


def oracle(accuracy: np.ndarray, metric: str, target: float) -> np.ndarray:
    """(n,): the first column (of n, G) that is as good as the last; for overlap, at least the target."""
    enough = target if metric == "overlap" else accuracy[:, -1:]
    return (accuracy >= enough).argmax(1)


def best_fixed(accuracy: np.ndarray, target: float) -> int:
    """The narrowest column that clearly reaches the target, by the rule of `mrl.cascade.thresholds`."""
    shortfall = target * accuracy[:, -1:] - accuracy
    return int(np.argmax(is_reached(shortfall.sum(0), (shortfall**2).sum(0))))


def best_mix(accuracy: np.ndarray, grid: Sequence[int], target: float) -> np.ndarray:
    """(G,): how likely each width is in the random mix of two that reaches the target, so, at the least mean width."""
    columns = accuracy.shape[1]
    best, least = at_width(best_fixed(accuracy, target), 1, columns)[0], float(grid[best_fixed(accuracy, target)])
    shortfall = target * accuracy[:, -1:] - accuracy
    products = shortfall.T @ shortfall
    for narrow, wide in combinations(range(columns), 2):
        mixes = (1 - _SHARES) * at_width(narrow, 1, columns) + _SHARES * at_width(wide, 1, columns)  # (101, G)
        means, squares = mixes @ shortfall.sum(0), ((mixes @ products) * mixes).sum(1)
        widths = np.where(is_reached(means, squares), mixes @ np.asarray(grid), np.inf)
        if widths.min() < least:
            best, least = mixes[widths.argmin()], float(widths.min())
    return best


def equal_width(shares: np.ndarray, grid: Sequence[int], share: float) -> float:
    """The least mean width at which one fixed width, or two at random, keep a share; shares: (G,) of each width.

    Where none keeps as much, the width that keeps most.
    """
    found = [float(width) for width, kept in zip(grid, shares, strict=True) if kept >= share]
    for narrow, wide in combinations(range(len(grid)), 2):
        if shares[narrow] < share <= shares[wide]:
            part = (share - shares[narrow]) / (shares[wide] - shares[narrow])
            found.append(float(grid[narrow] + part * (grid[wide] - grid[narrow])))
    return min(found, default=float(grid[int(shares.argmax())]))


def richest_mix(shares: np.ndarray, grid: Sequence[int], width: float) -> np.ndarray:
    """(G,): how likely each width is in the random mix that keeps most at a mean width, which is within the grid."""
    best, most = np.zeros(len(grid)), -np.inf
    for narrow in range(len(grid)):
        for wide in range(narrow, len(grid)):
            if grid[narrow] <= width <= grid[wide]:
                part = (width - grid[narrow]) / max(grid[wide] - grid[narrow], 1)
                mix = (1 - part) * at_width(narrow, 1, len(grid))[0] + part * at_width(wide, 1, len(grid))[0]
                if mix @ shares > most:
                    best, most = mix, float(mix @ shares)
    return best


def saving(stops_at: np.ndarray, accuracy: np.ndarray, grid: Sequence[int]) -> float:
    """The share of its mean width that a choice saves beside fixed widths which keep as much.

    stops_at: (n,) columns of the grid; accuracy: (n, G).
    """
    kept = accuracy.sum(0) / accuracy[:, -1].sum()
    share = accuracy[np.arange(len(accuracy)), stops_at].sum() / accuracy[:, -1].sum()
    return 1 - float(np.take(grid, stops_at).mean()) / equal_width(kept, grid, share)


def tabulate(
    choices: Sequence[tuple[dict, np.ndarray, np.ndarray | None, np.ndarray]],
    grid: Sequence[int],
    num_items: int,
    view: View,
    served: dict[str, np.ndarray],
) -> pl.DataFrame:
    """A row a choice: what it is called, (n, G) of the users of `view`, (m, G) of those served, selections a query.

    served: overlap, recall, ndcg → (m, G), of the users that the run's own vectors serve.
    """
    rows, full, widths = [], view.accuracy[:, -1].sum(), np.asarray(grid, np.float64)
    shares = view.accuracy.sum(0) / full

    def error(kept: np.ndarray, ratio: float) -> float:
        """One standard error of Σ kept / Σ accuracy at the full width, by the delta method."""
        return float(np.sqrt(((kept - ratio * view.accuracy[:, -1]) ** 2).sum()) / full)

    for facts, choice, choice_served, lists in choices:
        kept, expected = (choice * view.accuracy).sum(1), float((choice @ widths).mean())
        share, mixed = float(kept.sum() / full), view.accuracy @ richest_mix(shares, grid, expected)
        gain = share - float(mixed.sum() / full)
        row = facts | {
            "expected_width": expected,
            "multiply_adds": expected * num_items,
            "lists": float(np.mean(lists)),
        }
        row |= {"share": share, "share_error": error(kept, share)}
        row |= {"equal_width": equal_width(shares, grid, share), "gain": gain, "gain_error": error(kept - mixed, gain)}
        row["served_width"] = None if choice_served is None else float((choice_served @ widths).mean())
        for name in ("overlap", "recall", "ndcg"):
            is_known = choice_served is not None and name in served
            row[f"test_{name}"] = float((choice_served * served[name]).sum(1).mean()) if is_known else None
        rows.append(row)
    types = dict.fromkeys(("kind", "confidence", "metric"), pl.String) | {"is_asked": pl.Boolean, "width": pl.Int64}
    return pl.DataFrame(rows, schema={name: types.get(name, pl.Float64) for name in rows[0]})


def describe_cascade(table: pl.DataFrame) -> str:
    """What the cascade of a table by `fit_cascade` keeps and costs, and whether it pays; one paragraph."""
    rows = {row["kind"]: row for row in table.iter_rows(named=True) if row["is_asked"]}
    cascade, fixed, oracle = (rows[kind] for kind in ("cascade", "best_fixed", "oracle"))
    full = table.filter(kind="fixed").sort("width").row(-1, named=True)
    metric, is_overlap = cascade["metric"], cascade["metric"].startswith("overlap")
    name = f"{metric.partition('@')[2]} best items" if is_overlap else metric_title(metric)
    kept, asked = f"{100 * cascade['share']:.1f} % (± {100 * cascade['share_error']:.1f})", percent(cascade["target"])
    text = (
        f"On users that it was not fitted on, a cascade by {WORDS[cascade['confidence']]} keeps {kept} of the full "
        f"width's {name} at an expected width of {cascade['expected_width']:.1f}; {asked} were asked for. The best "
        f"fixed width is {fixed['width']} of {full['width']} ({100 * fixed['share']:.1f} %), and an oracle "
        f"{'that gives every user such a list' if is_overlap else 'that loses nobody anything'} needs "
        f"{oracle['expected_width']:.1f}. To keep as much as the cascade, fixed widths taken at random need "
        f"{cascade['equal_width']:.1f}; "
    )
    saved, lists = 1 - cascade["expected_width"] / cascade["equal_width"], cascade["lists"]
    if cascade["gain"] <= 2 * cascade["gain_error"]:
        text += "that a cascade does better cannot be told from chance."
    elif saved < WORTH_IT:
        text += "a cascade hardly pays."
    else:
        text += (
            f"a cascade saves {percent(saved)} of the multiply-adds, for {lists:.1f} selections a query in place of 1."
        )
    measured = f"test_{metric.partition('@')[0]}"
    if cascade[measured] is None or is_overlap:
        return text
    kept, kept_fixed = (row[measured] / full[measured] for row in (cascade, fixed))
    return text + f" On test it keeps {100 * kept:.1f} %, the fixed width {100 * kept_fixed:.1f} %."
