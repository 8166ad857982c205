"""The best k items of every user: the inner loop of evaluation and recommendation.

Ties are broken here, for all of the package: of equal scores the smaller item row comes first. So a list depends on
nothing but the vectors, and models that score everything alike gain nothing from the order of a sort.

Nested scores are a running sum over blocks of dimensions, so one pass over the scores serves every width. The sums
are float32 and their rounding depends on the order, the library and the device. They therefore only draw up a
shortlist, everything within their own error bound of the k-th best; the shortlist is scored again in float64, in the
order of the dimensions. What comes out is the same for every chunk size, on CPU and on CUDA, where the sums for the
shortlist are of factors rounded to TF32, if that gives the same lists (`mrl.kernels.fast_paths`).

On the CPU compiled kernels do all of it, a few users at a time in the cache (`mrl.kernels.topk`), except that scores of
wide vectors are torch's; elsewhere, for long lists and for a handful of users, torch does all, with the same result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial

import numpy as np
import torch
from torch import Tensor

from mrl.data import Positives
from mrl.errors import RunError
from mrl.kernels import fast_paths, fast_products, has_short_floats, in_threads
from mrl.kernels import topk as kernels
from mrl.kernels.fast_paths import TF32_SHORTLISTS
from mrl.widths import blocks, check_widths

_KERNEL_LIMIT = 256  # the kernel compares shortlisted items pairwise; a longer list is left to torch
_FEW = 8  # users a call up to which torch is as quick, and numba, half a second to load, is not needed
_MARGIN = 32  # how many more than k torch.topk lists at first
_MARGIN_TF32 = 256  # where scores are rougher, so that more of them are within their bounds
_CHUNK = 2048  # users whose lists are held at once where no score matrix is
_WIDE = 128  # dimensions from which on products by torch are faster than the kernel's, which need not be stored
_NUMBERS = 2**20  # scores of those at a time: 4 MiB


def _best_torch(
    scores: Tensor, margins: Tensor, users: Tensor, items: Tensor, k: int, listed: int | None = None
) -> tuple[Tensor, Tensor]:
    """`mrl.kernels.topk` by torch operations, on any device."""
    num_items = scores.shape[1]
    available = min(k, num_items)
    listed = min(listed or k + _MARGIN, num_items)
    values, candidates = torch.topk(scores, listed)  # (B, listed)
    bound = values[:, available - 1].double() - margins
    inside = (values >= bound[:, None]) & (values > -math.inf)
    candidates, order = torch.where(inside, candidates, num_items).sort(dim=1)  # by row, so that ties are
    inside = inside.gather(1, order)
    values = values.gather(1, order).double()
    if users.shape[1]:
        vectors = items[candidates.clamp(max=num_items - 1)]  # (B, listed, d)
        values = torch.zeros_like(values)
        for d in range(users.shape[1]):
            values += users[:, d, None].double() * vectors[:, :, d].double()
    values, order = values.masked_fill(~inside, -math.inf).sort(dim=1, descending=True, stable=True)
    candidates = candidates.gather(1, order)
    ids = torch.where(values > -math.inf, candidates, -1)[:, :k]
    best = values[:, :k]
    if available < k:
        ids = torch.nn.functional.pad(ids, (0, k - available), value=-1)
        best = torch.nn.functional.pad(best, (0, k - available), value=-math.inf)
    if listed < num_items:
        # where all that is listed lies within the bound there may be more behind it: list more for those users
        open_rows = inside.all(dim=1).nonzero()[:, 0]
        if len(open_rows):
            inputs = scores[open_rows], margins[open_rows], users[open_rows]
            ids[open_rows], best[open_rows] = _best_torch(*inputs, items, k, listed=4 * listed)
    return ids, best


def top_k(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row.

    scores: (B, I) float32 or float64; -Inf marks an item that must not appear.
    Returns items (B, k) int64, -1 where nothing is left, and their scores (B, k), -Inf there.
    Raises RunError on NaN or +Inf.
    """
    if scores.numel() and not bool(scores.amax() < math.inf):
        raise RunError("scores: NaN or Inf among them, not ranked; resume with a lower learning_rate")
    ids = torch.full((len(scores), k), -1, device=scores.device)
    best = torch.full((len(scores), k), -math.inf, dtype=torch.float64, device=scores.device)
    if scores.numel() == 0:
        return ids, best.to(scores.dtype)
    if scores.device.type == "cpu" and scores.dtype == torch.float32 and k <= _KERNEL_LIMIT:
        table, ids_out, best_out = scores.contiguous().numpy(), ids.numpy(), best.numpy()

        def work(rows: slice) -> None:
            kernels.best_of_scores(table[rows], k, ids_out[rows], best_out[rows])

        in_threads(work, len(scores), each=500_000 // scores.shape[1])
    else:
        nothing = scores.new_empty(len(scores), 0, dtype=torch.float32)
        ids, best = _best_torch(scores, torch.zeros_like(best[:, 0]), nothing, nothing, k)
    return ids, best.to(scores.dtype)


def _positions(rows: Tensor, positives: Positives) -> tuple[Tensor, Tensor]:
    """The positives of users `rows` (B,): position in rows (n,), in increasing order, and item (n,)."""
    of_rows = positives.take(rows)
    return of_rows.users.long(), of_rows.items.long()


def mask_positives(scores: Tensor, rows: Tensor, positives: Positives) -> None:
    """Set scores (B, I) of the positives of users `rows` (B,) to -Inf, in place."""
    scores[_positions(rows, positives)] = -math.inf


def users_per_batch(num_items: int, device: torch.device | str, budget: int | None = None) -> int:
    """How many users to score together so that the score matrix stays within `budget` bytes.

    By default 64 MiB on a CPU and an eighth of what is free on a GPU.
    """
    cuda = torch.device(device).type == "cuda"
    if budget is None:
        budget = torch.cuda.mem_get_info(device)[0] // 8 if cuda else 64 * 2**20
    return min(max(budget // (4 * max(num_items, 1)), 64), 2**16)


@contextmanager
def _products(tf32: bool) -> Iterator[None]:
    """Matrix products of factors rounded to TF32 (on a GPU) or not rounded; afterwards as it was before."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


class VectorRanking:
    """Ranks all items for users by ⟨p[:d], q[:d]⟩ at every width d in one pass.

    users: (U, D), items: (I, D), on one device, used as float32. Any increasing widths up to D.
    Raises RunError where the vectors, or scores made of them, are not finite.
    """

    def __init__(self, users: Tensor, items: Tensor, widths: Sequence[int]) -> None:
        self.users, self.items = users.detach().float(), items.detach().float().contiguous()
        self.widths = check_widths(widths, users.shape[1])
        lengths = self.items.norm(dim=1)
        longest = lengths.max() if len(lengths) else lengths.new_zeros(())
        exact = torch.get_float32_matmul_precision() == "highest"
        self._few = _FEW if exact else 0  # torch would set the precision of all threads for a while
        self.tf32 = has_short_floats(self.items.device) and not fast_paths.is_off(TF32_SHORTLISTS)
        # Rounding of a float32 sum in any order (Higham 2002, section 3.1); twice: either of two items may be off.
        unit = (users.shape[1] + len(self.widths) + 2) * 2.0**-24
        if not exact:
            unit = 2.0**-7  # as short as bfloat16
        elif self.tf32:
            unit += 2.0**-10  # of either factor 2^-11
        bounds = self.users.norm(dim=1).double() * longest.double()
        if not bool((bounds < 1e38).all()):
            raise RunError("users, items: NaN, Inf or numbers too large to score; lower learning_rate and train again")
        self.margins = 2 * unit * bounds + 1e-36  # (U,); the last term covers what underflows
        self._columns: Tensor | None = None

    def users_per_batch(self, k: int) -> int:
        """How many users to give to a call, for memory within bounds and little overhead."""
        return _CHUNK if self._has_kernel(k) else users_per_batch(len(self.items), self.items.device)

    def _has_kernel(self, k: int) -> bool:
        return self.items.device.type == "cpu" and k <= _KERNEL_LIMIT

    def __call__(self, rows: Tensor, k: int, hidden: Sequence[Positives] = ()) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Yield (width, items (B, k), scores (B, k) float64) for users `rows` (B,), narrowest width first.

        Positives in `hidden` are never returned; -1 and -Inf stand where fewer than k items are left.
        """
        if self._has_kernel(k) and len(rows) > self._few:
            best = self._by_products if self.widths[-1] > _WIDE else self._by_kernels
            yield from zip(self.widths, *best(rows, k, hidden), strict=True)
            return

        def lists(tf32: bool) -> tuple[Tensor, Tensor]:
            _, ids, best = zip(*self._by_torch(rows, k, hidden, tf32), strict=True)
            return torch.stack(ids), torch.stack(best)  # (L, B, k)

        if self.tf32:  # the margins stay those of TF32, which are wide enough for either
            self.tf32 = fast_paths.is_usable(
                TF32_SHORTLISTS, lambda: lists(True), lambda: lists(False), fast_paths.list_difference
            )
        yield from self._by_torch(rows, k, hidden, self.tf32)

    def _by_torch(
        self, rows: Tensor, k: int, hidden: Sequence[Positives], tf32: bool
    ) -> Iterator[tuple[int, Tensor, Tensor]]:
        margins, listed = self.margins[rows], k + (_MARGIN_TF32 if tf32 else _MARGIN)
        for width, users, scores in self._scores(rows, hidden, partial(_products, tf32)):
            yield width, *_best_torch(scores, margins, users[:, :width], self.items, k, listed)

    def _scores(
        self, rows: Tensor, hidden: Sequence[Positives], products: Callable[[], AbstractContextManager]
    ) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Width, users (B, D) and their scores (B, I), in one place for all widths; -Inf what is hidden."""
        users = self.users[rows]
        scores = users.new_empty(len(rows), len(self.items))
        for level, (width, block) in enumerate(zip(self.widths, blocks(self.widths), strict=True)):
            with products():
                torch.addmm(scores, users[:, block], self.items[:, block].T, beta=float(level > 0), out=scores)
            if level == 0:
                for positives in hidden:  # once: whatever is added to -Inf, it stays
                    mask_positives(scores, rows, positives)
            yield width, users, scores

    def _by_products(self, rows: Tensor, k: int, hidden: Sequence[Positives]) -> tuple[Tensor, Tensor]:
        """Items and scores of wide vectors, (L, B, k) each: scores are what takes the time, and torch makes them."""
        lists, levels, items = [], len(self.widths), self.items.numpy()
        for some in rows.split(max(_NUMBERS // len(items), 64)):
            for width, users, scores in self._scores(some, hidden, fast_products):
                ids = torch.empty(len(some), k, dtype=torch.int64)
                best = torch.empty(len(some), k, dtype=torch.float64)
                tables = [table.numpy() for table in (scores, self.margins[some], users, ids, best)]
                in_threads(partial(_best_of_part, tables, width, items, k), len(some), each=32)
                lists.append((ids, best))
        by_level = (lists[level::levels] for level in range(levels))
        return tuple(
            map(torch.stack, zip(*(map(torch.cat, zip(*each, strict=True)) for each in by_level), strict=True))
        )

    def _by_kernels(self, rows: Tensor, k: int, hidden: Sequence[Positives]) -> tuple[Tensor, Tensor]:
        """Items and scores, (L, B, k) each."""
        ids = torch.empty(len(self.widths), len(rows), k, dtype=torch.int64)
        best = torch.empty(len(self.widths), len(rows), k, dtype=torch.float64)
        if self._columns is None:
            self._columns = self.items.T.contiguous()  # (D, I)
        positions = [_positions(rows, positives) for positives in hidden] or [(torch.empty(0, dtype=torch.int64),) * 2]
        row, item = (torch.cat(parts) for parts in zip(*positions, strict=True))
        row, order = row.sort()
        offsets = torch.searchsorted(row, torch.arange(len(rows) + 1)).numpy()
        masked, widths = item[order].numpy(), np.array(self.widths)
        users, margins = self.users[rows].numpy(), self.margins[rows].numpy()
        items, columns, ids_out, best_out = self.items.numpy(), self._columns.numpy(), ids.numpy(), best.numpy()

        def work(part: slice) -> None:
            places = (ids_out[:, part], best_out[:, part])
            kernels.best_of_vectors(
                users[part], margins[part], items, columns, widths, offsets, masked, part.start, k, *places
            )

        in_threads(work, len(rows), each=32)
        return ids, best


def _best_of_part(tables: Sequence[np.ndarray], width: int, items: np.ndarray, k: int, part: slice) -> None:
    scores, margins, users, ids, best = (table[part] for table in tables)
    kernels.best_of_products(scores, margins, users, width, items, k, ids, best)
