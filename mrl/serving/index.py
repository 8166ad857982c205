"""An index over the items of a run: exact, adaptive and funnel search at any ladder of widths, updated in place.

    index = Index(run, widths=[16, 64], shortlist=[200], bits=8)
    index.search(["a user"], k=10)

All items are scored by their first 16 dimensions in 8 bits, the best 200 again by all 64 in float32: *adaptive
retrieval* of Kusupati et al., arXiv 2205.13147. A longer ladder is their *funnel*. Scores are inner products, as
everywhere: the length of an item's vector is its popularity, so that a prefix is never normalised.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from numbers import Integral
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from mrl.errors import ConfigError, RunError
from mrl.kernels import in_threads, rerank
from mrl.popularity import check_popularity, project_queries
from mrl.runs import Run
from mrl.runs.lists import as_lists
from mrl.serving.catalogue import Catalogue, as_table
from mrl.serving.codes import Codes, check_bits
from mrl.serving.scans import FaissScan, FaissSettings, PlainScan
from mrl.widths import check_widths

BACKENDS = ("plain", "faiss")
_MORE = 32  # candidates beyond k that faiss lists where it is to be exact: its sums are float32


class Index:
    """Retrieval by prefix.

    run: a finished run, or item vectors (I, D) alone, whose ids are then their row numbers.
    widths: those at which items are scored, narrowest first; by default the full width alone, which is exact.
    shortlist: how many go on to the next width, one number for each width but the first; or one for each, where the
    first, too, is to be scored again in float32 after the scan of codes.
    bits: of the scan: 32, 16, 8 or 1. backend: `plain`, compiled loops; or `faiss`, with the settings of
    `mrl.serving.scans.FaissSettings` by name. threads: 0 for as many as torch uses. popularity: as `Run.recommend` has
    it; queries are projected, items and codes stay as they are. scan: one that was built before, as
    `mrl.serving.storage` has it.
    Raises ConfigError, or RunError where a run has no vectors.
    """

    def __init__(
        self,
        run: Run | Tensor | np.ndarray,
        widths: Sequence[int] | None = None,
        shortlist: Sequence[int] = (),
        *,
        bits: int = 32,
        backend: str = "plain",
        threads: int = 0,
        popularity: float = 1.0,
        scan: PlainScan | FaissScan | None = None,
        **options: Any,
    ) -> None:
        began = time.perf_counter()
        self.catalogue = Catalogue(run)
        dim = self.catalogue.items.shape[1]
        self.widths, self.shortlist = check_ladder(widths, shortlist, dim, check_bits(bits))
        self.bits, self.backend, self.options = bits, backend, options
        if isinstance(threads, bool) or not isinstance(threads, int) or threads < 0:
            raise ConfigError(f"threads={threads!r}: must be a whole number, 0 for as many as torch uses")
        self.threads = threads or torch.get_num_threads()
        self.popularity = check_popularity(popularity)
        if popularity < 1 and not hasattr(run, "popularity"):
            raise ConfigError(f"popularity={popularity:g}: vectors do not say how popular items are; give a run")
        self.directions = run.popularity.directions if popularity < 1 else None  # (D, R)
        if backend not in BACKENDS:
            raise ConfigError(f"backend={backend!r}: must be one of {', '.join(BACKENDS)}")
        if backend == "plain" and options:
            raise ConfigError(f"{next(iter(options))}: is a setting of backend='faiss'; leave it out")
        self.scan = scan or self._scan()
        self.build_seconds = time.perf_counter() - began

    def _scan(self) -> PlainScan | FaissScan:
        prefix = np.ascontiguousarray(self.catalogue.items[: self.count, : self.widths[0]])
        if self.backend == "plain":
            return PlainScan(Codes.encode(prefix, self.bits))
        try:
            settings = FaissSettings(**self.options)
        except TypeError:
            known = ", ".join(FaissSettings.__dataclass_fields__)
            raise ConfigError(f"{', '.join(self.options)}: settings of faiss are {known}") from None
        return FaissScan.build(prefix, self.bits, settings, self.threads)

    def __repr__(self) -> str:
        ladder = " → ".join(map(str, self.widths))
        kept = f", {' → '.join(map(str, self.shortlist))} re-ranked" if self.shortlist else ""
        kind = self.options.get("kind", "flat") if self.backend == "faiss" else ""
        less = f"popularity {self.popularity:g}, " if self.popularity < 1 else ""
        return (
            f"Index({int(self.catalogue.alive.sum()):,} items, width {ladder}{kept}, {self.bits} bits, "
            f"{self.backend}{' ' * bool(kind)}{kind}, {less}{self.threads} thread{'s' * (self.threads > 1)})"
        )

    @property
    def count(self) -> int:
        """How many items there are, removed ones included."""
        return self.catalogue.count

    @property
    def is_exact(self) -> bool:
        """Whether lists are those of `Run.recommend`, item for item."""
        return self.backend == "plain" and self.bits == 32 and not self.shortlist

    @property
    def multiply_adds(self) -> int:
        """Of a query that looks at all items: d₀ · I for the scan, d · K for each shortlist."""
        return self.widths[0] * self.count + sum(d * k for d, k in zip(self._later, self.shortlist, strict=True))

    @property
    def bytes_per_item(self) -> float:
        """Of codes, and of the float32 vectors where a shortlist is scored again."""
        return self.scan.bytes_per_item + (4 * self.widths[-1] if self.shortlist or self.bits == 32 else 0)

    @property
    def _later(self) -> tuple[int, ...]:
        """The width at which each shortlist is scored."""
        return self.widths[len(self.widths) - len(self.shortlist) :]

    def search(
        self,
        queries: Any,
        k: int = 10,
        *,
        exclude_seen: bool | None = None,
        exclude: Any = None,
        only: Any = None,
    ) -> pl.DataFrame:
        """The k best items of each query: columns user, item, rank (from 1), score, title, as `Run.recommend` has them.

        queries: raw ids of users, one or many; or vectors, a floating array (B, D), whose users are then row
        numbers. exclude_seen: what a user is known to have met is left out; by default for users, not for vectors.
        exclude: raw ids of items that are never returned. only: raw ids of the items that may be, an expression over
        the labels such as `pl.col("year") >= 1990`, or a mask (I,) bool of `allowed`.
        As many as k are returned wherever so many are left. Raises RunError on unknown ids, ConfigError on the rest.
        """
        if isinstance(k, bool) or not isinstance(k, Integral) or k < 1:
            raise ConfigError(f"k={k!r}: must be a whole number from 1 on")
        if self.shortlist and k > min(self.shortlist):
            raise ConfigError(f"k={k}: is more than the shortlist {list(self.shortlist)}; make that longer")
        vectors, users, rows = self._queries(queries)
        if self.directions is not None:
            vectors = project_queries(vectors, self.directions, self.popularity)
        if exclude_seen and rows is None:
            raise ConfigError("exclude_seen=True: it is not known what vectors have seen; give `exclude`")
        if exclude_seen is not False and rows is not None and not self.catalogue.has_seen:
            raise RunError(f"{self.catalogue.where}: has no seen.safetensors; search with exclude_seen=False")
        hides = rows is not None and exclude_seen is not False
        hidden = [self.catalogue.met_by(row) for row in rows] if hides else None
        item, score = self.search_rows(vectors, int(k), hidden, self.catalogue.denied(exclude, only))
        query, place = (item >= 0).nonzero()
        found = item[query, place], place + 1, score[query, place]
        return as_lists(users[query], self.catalogue.item_ids, self.catalogue.labels, *found)

    def search_rows(
        self,
        vectors: np.ndarray,
        k: int,
        hidden: Sequence[np.ndarray] | None = None,
        denied: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the k best items and their scores, (B, k) int64 and float64; -1 and -Inf where nothing is left.

        vectors: (B, D) float32, taken as they are. hidden: rows that may not be listed, (n,) int64 for each query.
        denied: (I,) bool of what none may list. `search` without ids, checks and `popularity`.
        """
        nothing, most = np.empty(0, np.int64), min(k, self.count)
        ids, scores = np.full((len(vectors), k), -1, np.int64), np.full((len(vectors), k), -np.inf)

        def work(part: slice) -> None:
            for b in range(part.start, part.stop):
                found, best = self._search_one(vectors[b], most, denied, nothing if hidden is None else hidden[b])
                ids[b, : len(found)], scores[b, : len(found)] = found, best

        if most:
            in_threads(work, len(vectors), each=max(1, 100_000 // self.count), threads=self.threads)
        return ids, scores

    def _search_one(
        self, query: np.ndarray, k: int, denied: np.ndarray | None, hidden: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rows and scores (float64) of the k best items for a query (D,), best first."""
        narrow = query[: self.widths[0]]
        if self.is_exact:
            return self.scan.exact(narrow, self.catalogue.items, self.margin(narrow), k, denied, hidden)
        if not self.shortlist and self.bits < 32:
            found = self.scan.ranked(narrow, k, denied, hidden)
            return found if len(found[0]) >= k else self._search_all(query, k, denied, hidden)
        wanted = self.shortlist[0] if self.shortlist else k + _MORE
        kept = self.scan.candidates(narrow, wanted, denied, hidden)
        if len(kept) < k and self.backend == "faiss":
            return self._search_all(query, k, denied, hidden)
        widths, sizes = self._later or self.widths, (*self.shortlist[1:], k)
        for width, size in zip(widths, sizes, strict=True):
            ids, best = np.empty(size, np.int64), np.empty(size)
            rerank(kept, query, width, self.catalogue.items, size, ids, best)
            kept, scores = ids[: len(kept)], best[: len(kept)]
        return kept, scores

    def _search_all(
        self, query: np.ndarray, k: int, denied: np.ndarray | None, hidden: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Item by item at the last width: for the rare query of which cells or a graph show too few."""
        left = np.ones(self.count, bool) if denied is None else ~denied
        left[hidden] = False
        rows = left.nonzero()[0]
        ids, best = np.empty(k, np.int64), np.empty(k)
        rerank(rows, query, self.widths[-1], self.catalogue.items, k, ids, best)
        return ids[: len(rows)], best[: len(rows)]

    def margin(self, query: np.ndarray) -> float:
        """By how much two float32 scores may be off together: Higham 2002, section 3.1."""
        return 2 * (len(query) + 3) * 2.0**-24 * float(np.linalg.norm(query)) * self.catalogue.longest + 1e-36

    def _queries(self, queries: Any) -> tuple[np.ndarray, np.ndarray, list[int] | None]:
        """Vectors (B, D) float32, what their rows are called (B,), and the rows of users, or None for vectors."""
        if isinstance(queries, Tensor | np.ndarray) and queries.ndim == 2:
            vectors = as_table(queries, "queries")
            if vectors.shape[1] != self.catalogue.items.shape[1]:
                raise ConfigError(
                    f"queries: {vectors.shape[1]} dimensions, where items have {self.catalogue.items.shape[1]}"
                )
            return vectors, np.arange(len(vectors)), None
        rows = self.catalogue.find("user", queries)
        return self.catalogue.users[rows], self.catalogue.user_ids[rows], rows

    def allowed(self, only: Any) -> np.ndarray:
        """(I,) bool for the `only` of `search`: to be made once where it is used often, or before a fork."""
        return self.catalogue.allowed(only)

    def update(self, run: Run) -> int:
        """Take over new users and items of a run, such as fold-in makes, and vectors that changed; returns how many
        items. Codes keep their scales, `popularity` the directions it began with. Not while other threads search:
        build or open another index, and swap.

        ConfigError where items of a graph would have to change; nothing is taken over then.
        """
        if self.options.get("kind") == "hnsw" and len(changed := self.catalogue.changed(run)):
            raise ConfigError(
                f"kind='hnsw': a graph cannot take other vectors of its items ({len(changed)} have some); build a new "
                "index of the run, or take another kind"
            )
        rows = self.catalogue.update(run)
        if len(rows):
            self.scan.put(rows, self.catalogue.items[rows, : self.widths[0]])
        return len(rows)

    def remove(self, item_ids: Any) -> None:
        """Take items out of every list. A graph only hides them, until `rebuild`."""
        self.scan.remove(self.catalogue.remove(item_ids))

    def rebuild(self) -> None:
        """Codes and lists anew, with scales of the vectors as they are now."""
        self.scan = self._scan()


def check_ladder(
    widths: Sequence[int] | None, shortlist: Sequence[int], dim: int, bits: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Widths and shortlists as an index takes them, or ConfigError."""
    checked = check_widths([dim] if widths is None else widths, dim)
    sizes = tuple(shortlist) if isinstance(shortlist, Sequence) and not isinstance(shortlist, str) else (shortlist,)
    if any(isinstance(size, bool) or not isinstance(size, Integral) or size < 1 for size in sizes):
        raise ConfigError(f"shortlist={shortlist!r}: give whole numbers from 1 on, such as [200]")
    if list(sizes) != sorted(sizes, reverse=True):
        raise ConfigError(f"shortlist={list(sizes)}: must not grow from width to width")
    if len(sizes) != len(checked) - 1 and (len(sizes) != len(checked) or bits == 32):
        again = " (or one more, to score codes again)" if bits < 32 else ""
        raise ConfigError(
            f"shortlist={list(sizes)}: widths={list(checked)} need {len(checked) - 1} numbers{again}, how many items "
            "go on from each width to the next"
        )
    return checked, tuple(int(size) for size in sizes)
