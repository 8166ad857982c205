"""Vectors from elsewhere made nested: rotated so that every prefix ranks as the whole does, whose scores stay.

    nested = nest(users, items)  # of any model that scores by inner product; cosine=True where by cosine
    nested = nest(table)         # text embeddings, say: one table, searched by its own rows

First the principal axes, then a rotation learned by self-distillation (`mrl.least_squares.learn_rotation`): each prefix
is taught to rank first what the whole ranks first. No interactions are needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from mrl.data import Positives
from mrl.errors import ConfigError, DataError
from mrl.evaluation import VectorRanking
from mrl.least_squares import learn_rotation
from mrl.least_squares.axes import gram
from mrl.widths import check_widths, powers_of_two

# Of what is learned: chosen on BPR, iALS and the default recipe of ml-100k, on their items alone, and on planted topics
# in 384 dimensions, which need the rate (.01: .26 of the best 9 at width 8, .03: .81).
LEARNING = {"temperature": 0.5, "learning_rate": 0.03, "steps": 100}
FOUND, ASKED = 20, 1000  # length of the lists, and how many rows, by which axes are compared
FAINTEST = 1e-8  # of the largest square of an axis; what is fainter is as faint as this
SIDES = ("user", "item")


@dataclass(frozen=True, eq=False)
class Nested:
    """What `nest` made: tables whose prefixes rank as their whole does, and the map that made them.

    users (U, D), items (I, D): as NumPy or torch, as they were given; one and the same where one table was given.
    rotation, item_rotation (D, D) float64: users = given users · rotation, items = given items · item_rotation, and
    rotation · item_rotationᵀ = 1, so that ⟨user, item⟩ is what it was. Of one table both are the same, and orthogonal.
    widths: the prefixes that were taught; any other works as well as its neighbours do. cosine: whether rows were
    normalised first. Search by inner product, and do not normalise prefixes.
    """

    users: Any
    items: Any
    rotation: Tensor
    item_rotation: Tensor
    widths: tuple[int, ...]
    cosine: bool = False

    def transform(self, vectors: Any, side: str | None = None) -> Any:
        """Later vectors (N, D), to be searched beside these. side: `user` or `item`; of one table it need not be said.

        Raises DataError as `nest` does, ConfigError where the side is open.
        """
        if side not in SIDES and not (side is None and self.rotation is self.item_rotation):
            raise ConfigError(f"side={side!r}: users and items are mapped differently; give 'user' or 'item'")
        table = _table(vectors, "vectors", self.cosine)
        if table.shape[1] != len(self.rotation):
            raise DataError(
                f"vectors: {table.shape[1]} dimensions, where these have {len(self.rotation)}; give as many"
            )
        return _as_given(table, self.item_rotation if side == "item" else self.rotation, vectors)


def nest(
    users: Any, items: Any = None, widths: Sequence[int] | None = None, *, cosine: bool = False, seed: int = 0
) -> Nested:
    """Vectors of any model, mapped so that their prefixes rank as the whole; scores of the whole stay what they were.

    users (U, D), items (I, D): NumPy, torch or lists, of any float type; computed in float64, returned as float32, or
    as float64 where that was given. Without items the rows of `users` are searched by each other, a row never finding
    itself. widths: prefixes that are to be good, by default the powers of two up to D. cosine: rows are normalised to
    length 1 first, rows of zeros apart; the scores that stay are then cosines.
    Raises DataError on tables of other shapes, NaN, Inf or zeros alone, ConfigError on widths beyond D.
    """
    if not isinstance(cosine, bool):
        raise ConfigError(f"cosine={cosine!r}: must be True or False")
    left = _table(users, "users", cosine)
    right = left if items is None else _table(items, "items", cosine)
    dim = left.shape[1]
    if right.shape[1] != dim:
        raise DataError(f"users have {dim} dimensions and items {right.shape[1]}; give tables of one model")
    if left.device != right.device:
        raise DataError(f"users are on {left.device} and items on {right.device}; move them to one device")
    taught = check_widths(
        [width for width in powers_of_two(dim) if width < dim] + [dim] if widths is None else widths, dim
    )
    maps = _principal_axes(left) if items is None else _balanced_axes(left, right)
    own = _themselves(left) if items is None else None
    # what is learned is a rotation, whatever the scale; in float32 numbers near 1 lose least
    tables = [(table @ axes).float() for table, axes in zip(_unit_scale(left, right), maps, strict=True)]
    levels = _with_all(taught, dim)
    learned = _orthogonal(learn_rotation(*tables, own, levels, seed=seed, **LEARNING)[0].double())
    rows = _drawn(len(left), ASKED, seed).to(left.device)
    count = min(FOUND, len(right) - (items is None))

    def agreement(rotation: Tensor) -> float:
        rotated = [table @ rotation.float() for table in tables]
        found = _lists(rotated, levels, rows, count, own)
        return sum(_shared(found[-1], each) for each in found)

    # the principal axes themselves, where no prefix learns more: those of BPR are as good
    rotation = max((learned, torch.eye(dim).to(learned)), key=agreement) if count else learned
    both = [axes @ rotation for axes in maps]
    if items is None:
        table = _as_given(left, both[0], users)
        return Nested(table, table, both[0], both[0], taught, cosine)
    return Nested(_as_given(left, both[0], users), _as_given(right, both[1], items), *both, taught, cosine)


def prefix_recall(
    before: Any, after: Nested, k: int = 20, *, widths: Sequence[int] | None = None, users: int = 1000, seed: int = 0
) -> pl.DataFrame:
    """Of the k best items by the whole vectors, the share that each prefix finds: columns width, before, after.

    before: what `nest` was given, (users, items) or one table. widths: by default those of `after`. users: how many are
    asked, drawn by `seed` where there are more. Raises ConfigError on k.
    """
    is_pair = isinstance(before, tuple | list) and len(before) == 2 and np.ndim(before[0]) == 2
    given = [_table(each, "before", after.cosine) for each in (before if is_pair else (before, before))]
    most = len(given[1]) - (not is_pair)
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= most:
        raise ConfigError(f"k={k!r}: must be from 1 to {most}, the number of items to be found")
    dim = given[1].shape[1]
    asked = check_widths(after.widths if widths is None else widths, dim)
    rows = _drawn(len(given[0]), users, seed).to(given[0].device)
    own = None if is_pair else _themselves(given[0])
    sides = {"before": given, "after": [_table(each, "after", False) for each in (after.users, after.items)]}
    lists = {name: _lists(_unit_scale(*each), _with_all(asked, dim), rows, k, own) for name, each in sides.items()}
    best = lists["before"][-1]
    shares = {name: [_shared(best, found) for found in each[: len(asked)]] for name, each in lists.items()}
    return pl.DataFrame({"width": list(asked)} | shares)


def _with_all(widths: tuple[int, ...], dim: int) -> tuple[int, ...]:
    return widths if widths[-1] == dim else (*widths, dim)


def _drawn(count: int, most: int, seed: int) -> Tensor:
    """Up to `most` rows of so many, in order."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:most].sort().values


def _themselves(table: Tensor) -> Positives:
    """Each row has seen itself."""
    count = len(table)
    return Positives(torch.arange(count + 1), torch.arange(count, dtype=torch.int32), count).to(table.device)


def _lists(
    tables: Sequence[Tensor], widths: tuple[int, ...], rows: Tensor, k: int, seen: Positives | None
) -> list[Tensor]:
    """The k best items (B, k) of users `rows` by each width."""
    ranking = VectorRanking(*tables, widths)
    parts = [
        [found for _, found, _ in ranking(part, k, [] if seen is None else [seen])]
        for part in rows.split(ranking.users_per_batch(k))
    ]
    return [torch.cat(by_part) for by_part in zip(*parts, strict=True)]


def _shared(best: Tensor, found: Tensor) -> float:
    """The share of `best` (B, k) that is in `found` (B, k)."""
    return float((best[:, :, None] == found[:, None, :]).any(2).float().mean())


def _table(values: Any, name: str, cosine: bool) -> Tensor:
    """A table (N, D) in float64; DataError where it is none."""
    try:
        table = (
            values.detach() if isinstance(values, Tensor) else torch.from_numpy(np.asarray(values, dtype=np.float64))
        )
        shape = tuple(table.shape)
        if table.is_complex():
            raise TypeError("complex numbers")
        table = table.double()
    except (TypeError, ValueError, OverflowError) as error:
        told = str(error).partition("\n")[0]
        raise DataError(f"{name}: cannot be read as a table of numbers ({told}); give an array (rows, D)") from None
    if len(shape) != 2 or not all(shape):
        raise DataError(f"{name}: has shape {shape}; give a table (rows, D) with at least one row and one dimension")
    if not bool(table.isfinite().all()):
        row = int((~table.isfinite().all(1)).nonzero()[0, 0])
        raise DataError(f"{name}: NaN or Inf in row {row}; leave such rows out")
    if not bool(table.any()):
        raise DataError(f"{name}: zeros alone, which score nothing; give vectors of a trained model")
    return torch.nn.functional.normalize(table, dim=1) if cosine else table


def _as_given(table: Tensor, rotation: Tensor, given: Any) -> Any:
    """table · rotation, as NumPy unless torch was given, as float32 unless float64 was."""
    rotated = table @ rotation.to(table.device)
    if isinstance(given, Tensor):
        return rotated if given.dtype == torch.float64 else rotated.float()
    is_double = getattr(given, "dtype", None) == np.float64
    return (rotated if is_double else rotated.float()).numpy()


def _unit_scale(*tables: Tensor) -> list[Tensor]:
    """Tables whose largest number is 1: no ranking changes."""
    return [table / table.abs().max() for table in tables]


def _principal_axes(table: Tensor) -> tuple[Tensor, Tensor]:
    """(D, D) twice, orthogonal: the axes of a table by how much they say of its rows' scores, the first most."""
    axes = torch.linalg.eigh(gram(_unit_scale(table)[0]))[1].flip(1)
    return axes, axes


def _balanced_axes(users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
    """A and B (D, D) with A Bᵀ = 1: the leading d columns of users A and items B are the truncated SVD of all scores.

    `mrl.least_squares.rotate` with axes that a table does not use kept apart, since later vectors may use them.
    """
    roots, inverses = [], []
    for table in _unit_scale(users, items):
        squares, basis = torch.linalg.eigh(gram(table))
        root = squares.clamp_min(FAINTEST * squares[-1]).sqrt()
        roots.append(root[:, None] * basis.T)
        inverses.append(basis / root)
    left, singular, right = torch.linalg.svd(roots[0] @ roots[1].T)
    return inverses[0] @ left * singular.sqrt(), inverses[1] @ right.T * singular.sqrt()


def _orthogonal(rotation: Tensor) -> Tensor:
    """The nearest matrix that is orthogonal to the last bit of float64; what is learned is so in float32."""
    left, _, right = torch.linalg.svd(rotation)
    return left @ right
