"""The width that a query needs: a cascade starts narrow and goes on only for users of whose list it is not sure.

    cascade = fit_cascade(run, target=0.98)
    cascade.search(run, ["a user"], k=10)
    print(describe_cascade(cascade.table))

Kusupati et al., arXiv 2205.13147, section 4.2.1. Nested scores are running sums, so that going on to a wider width
only adds the dimensions between: a query that stops at width d costs d · I multiply-adds, whatever it went through. The
best k are selected at every level that is asked for its list; the table counts these selections, too.

Accuracy is NDCG or Recall on validation, by vectors that have not seen it (`mrl.cascade.heldout`), or the overlap with
the list of the full width, which needs no labels. Thresholds are fitted on one half of the users, and what they keep
is measured on the other. Test is reported, by the vectors that are served; nothing is chosen on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, permutations
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from mrl.analysis.comparison import load_run_data
from mrl.cascade.confidence import COMPARING, CONFIDENCES, LISTING, confidence_at, widths_compared
from mrl.cascade.heldout import vectors_without_validation
from mrl.cascade.table import View, at_width, best_fixed, best_mix, look, oracle, saving, tabulate
from mrl.cascade.thresholds import fit_thresholds, stop_levels
from mrl.data import Interactions
from mrl.data.splits import check_whole
from mrl.errors import ConfigError, RunError
from mrl.evaluation import users_per_batch
from mrl.kernels import best_of_vector, in_threads
from mrl.runs import Run
from mrl.runs.lists import as_lists
from mrl.serving.index import Index
from mrl.widths import check_widths

METRICS = ("ndcg", "recall", "overlap")
TARGETS = (0.9, 0.95, 0.98, 0.99)  # in the table beside the one that is asked for


@dataclass(frozen=True, eq=False)
class Cascade:
    """Where to stop. Made by `fit_cascade`.

    widths: (L,), the last is the full one. thresholds: (L − 1,), of `confidence` (`mrl.cascade.confidence`).
    k: length of the lists that it judges by. target: the share of the full width's `metric` to be kept.
    table: a row a choice of widths, as `fit_cascade` says.
    """

    widths: tuple[int, ...]
    thresholds: tuple[float, ...]
    confidence: str
    k: int
    target: float
    metric: str
    table: pl.DataFrame

    def levels(self, view: View) -> np.ndarray:
        """(n,) the level at which each user stops."""
        return stop_levels(view.sure[self.confidence], self.thresholds)

    def asks(self) -> list[tuple[int, float, bool]]:
        """Steps in order: a width, the threshold there (infinite where nobody may stop), and whether lists are selected
        to decide by: at this step, or at the next, which compares with them."""
        steps = [(self.widths[0] // 2, np.inf)] if self._starts_before else []
        steps += zip(self.widths, (*self.thresholds, -np.inf), strict=True)
        decides = [self.confidence in LISTING and bool(np.isfinite(threshold)) for _, threshold in steps]
        is_compared = [self.confidence in COMPARING and after for after in (*decides[1:], False)]
        return [(*step, here or there) for step, here, there in zip(steps, decides, is_compared, strict=True)]

    @property
    def _starts_before(self) -> bool:
        return self.confidence in COMPARING and len(widths_compared(self.widths)) > len(self.widths)

    def selections(self, levels: np.ndarray) -> np.ndarray:
        """(n,) how many lists of the best k are selected for users who stop at levels (n,); that one always."""
        asked = np.array([has_lists for *_, has_lists in self.asks()])
        step = levels + self._starts_before
        return asked.cumsum()[step] + ~asked[step]

    def search(
        self, source: Run | Index, users: Any, k: int | None = None, *, exclude_seen: bool = True
    ) -> pl.DataFrame:
        """The k best items of users by raw id: the frame of `Run.recommend`, and a column `width`, at which they stop.

        source: a run; or an index of one, without what was removed from it. The float32 vectors are searched, an exact
        index (`Index(run)`) has them in the right order, where for anything else they are copied at each call.
        k: by default that of the cascade. Lists are those of `recommend` at that width.
        Raises RunError on unknown users, ConfigError on k and on vectors of another width.
        """
        index = source if isinstance(source, Index) else Index(source)
        catalogue = index.catalogue
        k = self.k if k is None else min(check_whole("k", k, least=1), index.count)
        if catalogue.items.shape[1] != self.widths[-1]:
            raise ConfigError(
                f"{catalogue.where}: {catalogue.items.shape[1]} dimensions, where the cascade was fitted to "
                f"{self.widths[-1]}; fit one to this run"
            )
        if exclude_seen and not catalogue.has_seen:
            raise RunError(f"{catalogue.where}: has no seen.safetensors; search with exclude_seen=False")
        rows = np.array(catalogue.find("user", users), np.int64)
        columns = index.scan.codes.columns[:, : index.count] if index.is_exact else ()
        if len(columns) != self.widths[-1]:
            columns = np.ascontiguousarray(catalogue.items[: index.count].T)
        size = users_per_batch(max(index.count, 1), "cpu")
        starts = range(0, max(len(rows), 1), size)
        parts = [self._search(index, columns, rows[at : at + size], k, exclude_seen) for at in starts]
        items, scores, widths = (np.concatenate(each) for each in zip(*parts, strict=True))
        user, rank = (items >= 0).nonzero()
        lists = as_lists(
            catalogue.user_ids[rows[user]],
            catalogue.item_ids,
            catalogue.labels,
            items[user, rank],
            rank + 1,
            scores[user, rank],
        )
        return lists.insert_column(lists.width, pl.Series("width", widths[user]))

    def _search(
        self, index: Index, columns: np.ndarray, rows: np.ndarray, k: int, exclude_seen: bool
    ) -> tuple[np.ndarray, ...]:
        """Items (B, k), scores (B, k) and widths (B,) of user rows (B,). columns: (D, I), the items transposed."""
        catalogue = index.catalogue
        queries, items = catalogue.users[rows], catalogue.items[: index.count]
        margins = np.array([index.margin(query) for query in queries])
        listed = min(max(k, self.k) + 1, index.count)
        found, best = np.full((len(rows), k), -1), np.full((len(rows), k), -np.inf)
        final, going = np.full(len(rows), self.widths[-1]), np.arange(len(rows))
        scores, before, start = np.zeros((len(rows), index.count), np.float32), None, 0
        if not catalogue.alive.all():
            scores[:, ~catalogue.alive] = -np.inf
        for row, user in enumerate(rows if exclude_seen else ()):
            scores[row, catalogue.met_by(user)] = -np.inf
        for width, threshold, has_lists in self.asks():
            lists = None
            if has_lists:
                scores += queries[:, start:width] @ columns[start:width]  # running sums: only the new dimensions
                lists, start = _best(scores, margins, queries, items, width, listed), width
            if np.isfinite(threshold):
                ids, values = lists or (None, None)
                stops = confidence_at(self.confidence, self.k, queries, width, ids, values, before) >= threshold
            else:
                stops = np.full(len(going), threshold < 0)
            if stops.any():
                if lists is None:
                    sums = scores[stops] + queries[stops, start:width] @ columns[start:width]
                    last = _best(sums, margins[stops], queries[stops], items, width, listed)
                else:
                    last = lists[0][stops], lists[1][stops]
                found[going[stops]], best[going[stops]] = last[0][:, :k], last[1][:, :k]
                final[going[stops]] = width
                going, margins, queries, scores = (each[~stops] for each in (going, margins, queries, scores))
            before = None if lists is None else lists[0][~stops]
            if not len(going):
                break
        return found, best, final


def _best(
    scores: np.ndarray, margins: np.ndarray, queries: np.ndarray, items: np.ndarray, width: int, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Items (B, k) and scores (B, k) float64 of the k best of scores (B, I), in order; -1 and -Inf beyond the last."""
    ids, best = np.empty((len(scores), k), np.int64), np.empty((len(scores), k))

    def work(part: slice) -> None:
        for b in range(part.start, part.stop):
            best_of_vector(scores[b], margins[b], queries[b], width, items, k, ids[b], best[b])

    in_threads(work, len(scores), each=max(1, 100_000 // max(len(items), 1)))
    return ids, best


def fit_cascade(
    run: Run,
    target: float = 0.98,
    k: int = 20,
    metric: str = "ndcg",
    widths: Sequence[int] | None = None,
    confidence: str = "auto",
    *,
    data: Interactions | None = None,
    most_users: int = 50_000,
    seed: int = 0,
) -> Cascade:
    """The cascade with the least expected width that keeps `target` of the full width's accuracy.

    target: strictly between 0 and 1; all of it is kept for sure by the full width alone. k: length of the lists.
    metric: `ndcg` or `recall` on validation, by the run's settings fitted again without it where its vectors have seen
    it, which takes as long as the refit did; or `overlap` with the list of the full width, by the vectors as they are.
    widths: where it may stop, the last being the full width; by default those that were trained.
    confidence: one of `mrl.cascade.confidence.CONFIDENCES`, or `auto` for the one that saves most, beside fixed
    widths which keep as much, by thresholds of one half of the fitted users on the other half of them.
    data: those that the run was trained on, if they are at hand; otherwise loaded by its settings, but for `overlap`,
    where there is no test without them. most_users: so many are drawn, with `seed`, and halved: thresholds are fitted
    on one half, the table is about the other.

    The table: kind, target, is_asked, confidence, width, metric (such as `ndcg@20`), expected_width, multiply_adds (a
    query), lists (selections of the best k a query), share (of the full width's metric) and share_error (one standard
    error); equal_width, the mean at which fixed widths, one or two at random, keep as much; gain and gain_error, by how
    much the share is above theirs at the same mean. Then, of test users outside the fitted half by the run's own
    vectors: served_width, test_overlap (with the full width), test_recall, test_ndcg.
    Rows by kind: `fixed` widths, trained and between; `best_fixed`, the narrowest that reached the target on the fitted
    half; `mixed`, two fixed widths at random, at the least mean; `cascade`, also at `TARGETS`; `oracle`, the narrowest
    width at which a user's accuracy is at least that at the full width (for overlap, at least the target): it loses
    nobody anything, where a cascade may lose on average, so that it need not be the narrower one.
    Raises ConfigError on settings and where there is no validation to choose on, RunError on runs without
    vectors and on other data.
    """
    items = run.items
    if isinstance(target, bool) or not isinstance(target, int | float) or not 0 < target < 1:
        raise ConfigError(
            f"target={target!r}: must lie strictly between 0 and 1; the full width alone keeps everything"
        )
    if metric not in METRICS:
        raise ConfigError(f"metric={metric!r}: must be one of {', '.join(METRICS)}")
    if confidence != "auto" and confidence not in CONFIDENCES:
        raise ConfigError(f"confidence={confidence!r}: must be auto, {', '.join(CONFIDENCES)}")
    full = items.shape[1]
    widths = check_widths(widths or run.config.get("widths") or [full], full)
    if widths[-1] != full:
        raise ConfigError(f"widths={list(widths)}: the last must be the full width, {full}")
    if check_whole("k", k, least=1) > len(items):
        raise ConfigError(f"k={k}: there are {len(items)} items")
    grid = tuple(sorted({*widths, *((narrow + wide) // 2 for narrow, wide in pairwise(widths))}))

    data = load_run_data(run) if data is None and metric != "overlap" else data
    if data is not None and (data.num_users, data.num_items) != (len(run.users), len(items)):
        raise RunError(
            f"{run.path}: has {len(run.users)} users and {len(items)} items, {data.name} has {data.num_users} and "
            f"{data.num_items}; give the data that it was trained on"
        )
    rows = torch.arange(len(run.users)) if metric == "overlap" else _with_items(data, "valid")
    rng = np.random.default_rng(seed)
    rows = rows[torch.from_numpy(rng.permutation(len(rows))[: check_whole("most_users", most_users, least=2)])]
    if metric == "overlap":
        view = look((run.users, run.items), rows, run.met, k, widths, grid)
        view = replace(view, accuracy=view.overlap())
    else:
        view = look(vectors_without_validation(run, data), rows, [data.train], k, widths, grid)
        view = replace(view, accuracy=view.metric(data.valid, metric))
    fitted, rest = view.take(slice(None, len(rows) // 2)), view.take(slice(len(rows) // 2, None))
    if not (fitted.accuracy[:, -1:].any() and rest.accuracy[:, -1:].any()):
        raise ConfigError(
            f"{run.path}: {metric}@{k} of the full width is 0 for half of {len(rows)} users, so no share of it can be "
            "kept; choose by metric='overlap', or a larger k"
        )
    stops_at = np.searchsorted(grid, widths)  # columns of the grid

    def fit(kind: str, target: float, part: View = fitted) -> Cascade:
        thresholds = fit_thresholds(part.sure[kind], part.accuracy[:, stops_at], widths, target)
        return Cascade(widths, thresholds, kind, k, float(target), metric, pl.DataFrame())

    def saved(kind: str) -> float:
        """By thresholds of one half of those fitted on the other, and the other way round: none profits from luck."""
        halves = fitted.take(slice(None, None, 2)), fitted.take(slice(1, None, 2))
        if any(not part.accuracy[:, -1:].any() for part in halves):
            return 0.0
        columns = [
            (stops_at[fit(kind, target, one).levels(other)], other.accuracy) for one, other in permutations(halves)
        ]
        return sum(saving(*each, grid) for each in columns)

    asked = fit(max(CONFIDENCES, key=saved) if confidence == "auto" else confidence, target)
    cascades = [asked if goal == target else fit(asked.confidence, goal) for goal in sorted({*TARGETS, target})]

    served, known = rest, {"overlap": rest.accuracy}
    if data is not None:
        outside = _with_items(data, "test")
        outside = outside[~torch.isin(outside, fitted.rows)][:most_users]
        hidden = [data.train] if data.valid == data.test else [data.train, data.valid]
        served = look((run.users, run.items), outside, hidden, k, widths, grid)
        known = {name: served.metric(data.test, name) for name in ("recall", "ndcg")} | {"overlap": served.overlap()}
    here, there, columns = len(rest.rows), len(served.rows), len(grid)
    facts = {
        "kind": "",
        "target": None,
        "is_asked": False,
        "confidence": None,
        "width": None,
        "metric": f"{metric}@{k}",
    }
    choices = []

    def add(choice: np.ndarray, choice_served: np.ndarray | None, lists: np.ndarray | int = 1, **changes: Any) -> None:
        choices.append((facts | changes, choice, choice_served, np.asarray(lists)))

    for column, width in enumerate(grid):
        add(*(at_width(column, users, columns) for users in (here, there)), kind="fixed", width=width)
    column = best_fixed(fitted.accuracy, target)
    about = {"target": float(target), "is_asked": True}
    add(*(at_width(column, users, columns) for users in (here, there)), kind="best_fixed", width=grid[column], **about)
    mix = best_mix(fitted.accuracy, grid, target)
    add(*(np.broadcast_to(mix, (users, columns)) for users in (here, there)), kind="mixed", **about)
    for each in cascades:
        levels, levels_served = each.levels(rest), each.levels(served)
        add(
            at_width(stops_at[levels], here, columns), at_width(stops_at[levels_served], there, columns),
            each.selections(levels), kind="cascade", target=each.target, is_asked=each is asked,
            confidence=each.confidence,
        )  # fmt: skip
    add(at_width(oracle(rest.accuracy, metric, target), here, columns), None, kind="oracle", **about)
    return replace(asked, table=tabulate(choices, grid, len(items), rest, known))


def _with_items(data: Interactions, split: str) -> Tensor:
    """(n,) int64: the users who have items in a split."""
    return data.split(split).counts.nonzero()[:, 0]
