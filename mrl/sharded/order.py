"""The random order of an epoch, of which each process knows where its own interactions stand.

Up to `DRAWN` interactions every process draws the whole order, 8 bytes each for a moment: it is that of one process.
Above, each computes the places of its own by a permutation that is keyed: a Feistel network over the square of a
number, walked until it ends within (Black & Rogaway, CT-RSA 2002). Neither depends on how many processes there are.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from mrl.kernels import compiled, in_threads, mix

DRAWN = 2**27  # interactions
ROUNDS = 8
LEAST = 2**14  # interactions a thread at least


def own_places(total: int, start: int, stop: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Of `total` interactions in random order: the places of those from start to stop, increasing, and which are there.

    Both (stop − start,) int64, on the generator's device; which: counted from `start`. Every process draws the same.
    """
    if total <= DRAWN:
        order = torch.randperm(total, generator=generator, device=generator.device)
        places = ((order >= start) & (order < stop)).nonzero()[:, 0]
        return places, order[places] - start
    keys = torch.randint(2**63 - 1, (ROUNDS,), generator=generator, device=generator.device)
    keys = keys.cpu().numpy().astype(np.uint64)
    places, side = np.empty(stop - start, np.int64), math.isqrt(total - 1) + 1
    in_threads(lambda part: _permute(start + part.start, total, side, keys, places[part]), len(places), each=LEAST)
    return torch.from_numpy(places).to(generator.device).sort()


@compiled
def _permute(first, total, side, keys, places):
    """Fill places (n,) with those of first, first + 1, …, of `total`, at most side²."""
    for n in range(len(places)):
        place = np.int64(first + n)
        while True:
            left, right = place // side, place % side
            for key in keys:
                moved = np.int64(mix(np.uint64(right) ^ key) % np.uint64(side))
                left, right = right, (left + moved) % side
            place = left * side + right
            if place < total:
                break
        places[n] = place
