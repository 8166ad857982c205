"""The first look at all items, for an index: candidates by inner product, by compiled loops or by faiss.

Both are asked alike: the best k of one query among the items that are not hidden. What they do not find, where a graph
or cells are searched in part, `Index` looks for item by item.
"""

from __future__ import annotations

from dataclasses import dataclass
from threading import local
from typing import Any

import numpy as np

from mrl.errors import ConfigError
from mrl.kernels import best_of_scores, best_of_vector, is_forked, shortlist
from mrl.serving.codes import Codes

KINDS = ("flat", "ivf", "hnsw", "panorama")


class PlainScan:
    """All codes, one by one, by compiled loops; no dependency, and exact for 32 bits."""

    def __init__(self, codes: Codes) -> None:
        self.codes = codes
        self._rooms = local()

    @property
    def bytes_per_item(self) -> float:
        return self.codes.bytes_per_item

    def put(self, rows: np.ndarray, vectors: np.ndarray) -> None:
        """Overwrite items, or add them behind the last."""
        self.codes.put(rows, vectors)

    def remove(self, rows: np.ndarray) -> None:
        """Nothing to do: the index hides what was removed."""

    def scores(self, query: np.ndarray, denied: np.ndarray | None, hidden: np.ndarray) -> tuple[np.ndarray, float]:
        """Scores of all items (I,), -Inf where denied (I,) bool or among the rows hidden; and what is to be added."""
        room = getattr(self._rooms, "scores", None)  # kept by each thread: fresh memory costs more than the scan
        if room is None or len(room) < self.codes.count:
            room = self._rooms.scores = np.empty(self.codes.count, np.float32)
        row = room[: self.codes.count]
        shift = self.codes.scan(query, row)
        if denied is not None:
            np.copyto(row, -np.inf, where=denied)
        row[hidden] = -np.inf
        return row, shift

    def candidates(self, query: np.ndarray, k: int, denied: np.ndarray | None, hidden: np.ndarray) -> np.ndarray:
        """Rows of the k best by codes, in no order; fewer where fewer are left."""
        row, _ = self.scores(query, denied, hidden)
        ids = np.empty(k, np.int64)
        return ids[: shortlist(row, k, row[None], ids)]

    def ranked(
        self, query: np.ndarray, k: int, denied: np.ndarray | None, hidden: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rows and scores of the k best by codes, in order."""
        row, shift = self.scores(query, denied, hidden)
        ids, best = np.empty((1, k), np.int64), np.empty((1, k))
        best_of_scores(row[None], k, ids, best)
        found = ids[0] >= 0
        return ids[0][found], best[0][found] + shift

    def exact(
        self, query: np.ndarray, items: np.ndarray, margin: float, k: int, denied: np.ndarray | None, hidden: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rows and scores of the k best by items (I, D) in float64, in order; of 32 bits only."""
        row, _ = self.scores(query, denied, hidden)
        ids, best = np.empty(k, np.int64), np.empty(k)
        best_of_vector(row, margin, query, len(query), items, k, ids, best)
        return ids[ids >= 0], best[ids >= 0]


@dataclass(frozen=True)
class FaissSettings:
    """What a faiss index is made with.

    kind: `flat` looks at everything; `panorama` too, and stops early where the rest cannot change the list; `ivf` looks
    into `probes` of `cells` (0 for 4 √I); `hnsw` walks a graph of `links` a node with a list of `ef`.
    """

    kind: str = "flat"
    cells: int = 0
    probes: int = 16
    links: int = 32
    ef: int = 64

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"kind={self.kind!r}: must be one of {', '.join(KINDS)}")
        for name, least in (("cells", 0), ("probes", 1), ("links", 2), ("ef", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ConfigError(f"{name}={value!r}: must be a whole number, at least {least}")


def load_faiss() -> Any:
    """The module, or ConfigError that names the extra."""
    try:
        import faiss
    except ImportError:
        raise ConfigError("backend='faiss' needs faiss-cpu: pip install 'mrl[serve]'") from None
    return faiss


class FaissScan:
    """Codes in an index of faiss, by inner product."""

    def __init__(self, index: Any, count: int, bits: int, settings: FaissSettings, threads: int) -> None:
        self.faiss, self.index, self.count, self.width = load_faiss(), index, count, index.d
        self.bits, self.settings, self.threads = bits, settings, threads

    @classmethod
    def build(cls, vectors: np.ndarray, bits: int, settings: FaissSettings, threads: int) -> FaissScan:
        """An index of vectors (I, d) float32. ConfigError for codes that faiss has not."""
        faiss = load_faiss()
        index = empty_index(vectors, bits, settings)
        scan = cls(index, len(vectors), bits, settings, threads)
        scan._set_threads()
        if not index.is_trained:
            index.train(vectors)
        if settings.kind != "ivf":
            scan.index = faiss.IndexIDMap2(index)
        scan.index.add_with_ids(vectors, np.arange(len(vectors)))
        return scan

    @property
    def bytes_per_item(self) -> float:
        """Of codes, links and ids; the cells' centres are left out."""
        codes = self.width * self.bits / 8
        links = 4 * 2 * self.settings.links if self.settings.kind == "hnsw" else 0
        return codes + links + 8

    def put(self, rows: np.ndarray, vectors: np.ndarray) -> None:
        """Overwrite items, or add them; of a graph only the latter."""
        known = rows[rows < self.count]
        if len(known):
            self.index.remove_ids(known)
        self._set_threads()
        self.index.add_with_ids(np.ascontiguousarray(vectors, np.float32), rows)
        self.count = max(self.count, int(rows.max()) + 1)

    def remove(self, rows: np.ndarray) -> None:
        """Drop items from the lists; of a graph, which cannot, the index only hides them."""
        if self.settings.kind != "hnsw":
            self.index.remove_ids(rows)

    def candidates(self, query: np.ndarray, k: int, denied: np.ndarray | None, hidden: np.ndarray) -> np.ndarray:
        """Rows of about the k best, in order; fewer where the search did not come upon more."""
        return self.ranked(query, k, denied, hidden)[0]

    def ranked(
        self, query: np.ndarray, k: int, denied: np.ndarray | None, hidden: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Likewise with scores. As many more than k are asked for as may be hidden, and these are left out."""
        self._set_threads()
        asked = min(k + len(hidden), self.count)
        scores, ids = self.index.search(query[None], asked, params=self._parameters(asked, denied))
        kept = (ids[0] >= 0) & ~np.isin(ids[0], hidden)
        return ids[0][kept][:k], scores[0][kept][:k].astype(np.float64)

    def _parameters(self, asked: int, denied: np.ndarray | None) -> Any:
        faiss, settings = self.faiss, self.settings
        options: dict[str, Any] = {}
        if denied is not None:
            bitmap = np.packbits(~denied, bitorder="little")
            options["sel"] = faiss.IDSelectorBitmap(len(denied), faiss.swig_ptr(bitmap))
        if settings.kind == "ivf":
            made = faiss.SearchParametersIVF(nprobe=settings.probes, **options)
        elif settings.kind == "hnsw":
            made = faiss.SearchParametersHNSW(efSearch=max(settings.ef, asked), **options)
        else:
            made = faiss.SearchParameters(**options) if options else None
        if made is not None:
            made.keep = options | ({"bitmap": bitmap} if denied is not None else {})  # as long as faiss looks at it
        return made

    def _set_threads(self) -> None:
        threads = 1 if is_forked() else self.threads  # a forked process lacks the threads of OpenMP
        if self.faiss.omp_get_max_threads() != threads:
            self.faiss.omp_set_num_threads(threads)


def empty_index(vectors: np.ndarray, bits: int, settings: FaissSettings) -> Any:
    """An index of faiss for vectors (I, d), neither trained nor filled. ConfigError for codes that faiss has not."""
    faiss, width = load_faiss(), vectors.shape[1]
    inner = faiss.METRIC_INNER_PRODUCT
    coder = {16: faiss.ScalarQuantizer.QT_fp16, 8: faiss.ScalarQuantizer.QT_8bit}.get(bits)
    if bits == 1 or (settings.kind == "panorama" and bits != 32):
        raise ConfigError(f"bits={bits}: kind={settings.kind!r} of faiss has no such codes; use backend='plain'")
    if settings.kind == "flat":
        return faiss.IndexFlatIP(width) if bits == 32 else faiss.IndexScalarQuantizer(width, coder, inner)
    if settings.kind == "panorama":
        if not hasattr(faiss, "IndexFlatIPPanorama"):
            raise ConfigError("kind='panorama': this version of faiss has none; upgrade to faiss-cpu 1.14 or later")
        return faiss.IndexFlatIPPanorama(width, max(1, width // 8))
    if settings.kind == "hnsw":
        if bits == 32:
            return faiss.IndexHNSWFlat(width, settings.links, inner)
        return faiss.IndexHNSWSQ(width, coder, settings.links, inner)
    cells = min(settings.cells or max(1, round(4 * len(vectors) ** 0.5)), max(1, len(vectors)))
    coarse = faiss.IndexFlatIP(width)
    if bits == 32:
        index = faiss.IndexIVFFlat(coarse, width, cells, inner)
    else:
        index = faiss.IndexIVFScalarQuantizer(coarse, width, cells, coder, inner)
    index.cp.max_points_per_centroid = 64  # a quarter of what faiss takes: IVF is built in a quarter of the time
    index.cp.min_points_per_centroid = 1  # few items are no reason for a warning
    return index
