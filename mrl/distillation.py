"""Self-distillation of prefixes: its gradients in one pass, and the steps of Adam that follow them, on any device.

Of users (B, F) and items (S, F), rotated by R (F, D), with s_k what the first d_k dimensions score, times exp(a_k):

    L = Σ_k w_k KL(P ‖ P_k),   P = softmax(⟨p, q⟩),   P_k = softmax(exp(a_k) ⟨(p R)[:d_k], (q R)[:d_k]⟩)

mean over the users. From wide to narrow, the scores of a level are those of the one before less a product of what it
has not, and gradients by scores are those of the one before and its own. Autograd would take thrice as long. What is
done by score is a compiled loop on the CPU, and plain operations of torch on other devices and in other precisions.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from mrl.kernels import compiled, in_threads

NEVER = -1e9  # the score of a pair that does not count
LOWEST = -60.0  # exponent: e^-60 is nothing beside 1, but no subnormal number, nor is what comes of it; those are slow
LEAST, LANES = 16, 64  # users a thread at least; numbers side by side
BETAS, EPSILON = (0.9, 0.999), 1e-8  # of Adam

# Of `mrl.softmax`: the items (U, N) that come first for each user, and P of each of them (U, N).
Teacher = tuple[Tensor, Tensor]

# Not "reassoc": the compiler's order of a sum is another one where the loop comes from the disk.
_kernel = partial(compiled, fastmath={"contract", "nnan", "nsz"})


def distillation_gradients(
    users: Tensor,
    items: Tensor,
    seen: Tensor,
    rotation: Tensor,
    sharpness: Tensor,
    levels: Sequence[int],
    weights: Tensor,
    room: Sequence[Tensor],
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of L by the rotation (F, D) and by the sharpness a (K,), and KL plus the entropy of P by level (K,).

    seen (2, P): rows of users and items of the pairs that do not count. levels: K widths, at most D. weights (K,): w.
    room: three tables (B, S) to be written over, so that no step takes memory anew; the first of them is P.
    """
    (target, scores, push), scales = room, sharpness.exp()
    torch.mm(users, items.T, out=scores)
    scores[*seen] = NEVER
    torch.softmax(scores, 1, out=target)
    rotated_users, rotated_items = users @ rotation, items @ rotation
    of_users, of_items = torch.zeros_like(rotated_users), torch.zeros_like(rotated_items.T)
    sums = users.new_empty(len(levels), 2)
    blocks, rates = [slice(*ends) for ends in pairwise([0, *levels])], (weights / weights.sum()).tolist()
    torch.mm(rotated_users[:, : levels[-1]], rotated_items[:, : levels[-1]].T, out=scores)
    scores[*seen] = NEVER  # and stays there, whatever is taken away
    push.zero_()
    # divided by B at the end: smaller numbers on the way would be subnormal, which is slow
    for level, scale in reversed(list(enumerate(scales.tolist()))):
        columns = blocks[level]
        sums[level] = add_gradients(scores, target, scale, rates[level] * scale, push)
        of_users[:, columns] = push @ rotated_items[:, columns]
        of_items[columns] = rotated_users[:, columns].T @ push
        if level:
            scores.addmm_(rotated_users[:, columns], rotated_items[:, columns].T, alpha=-1)
    of_rotation = (users.T @ of_users).addmm_(items.T, of_items.T)
    of_sharpness, losses = (sums / len(users)).T
    return of_rotation / len(users), of_sharpness * sums.new_tensor(rates), losses


def add_gradients(scores: Tensor, target: Tensor, scale: float, rate: float, push: Tensor) -> Tensor:
    """Add to push (B, S) rate · (Q − P), Q the softmax of scale · scores (B, S), P the target (B, S).

    Returns Σ (Q − P) · scale · scores and −Σ P log Q, (2,).
    """
    if scores.device.type == "cpu" and scores.dtype == torch.float32:
        sums, tables = np.empty((len(scores), 2), np.float32), [table.numpy() for table in (scores, target, push)]
        numbers = np.float32(scale), np.float32(rate)

        def work(part: slice) -> None:
            _add_gradients(*(table[part] for table in tables), *numbers, sums[part])

        in_threads(work, len(sums), each=LEAST)
        return torch.from_numpy(sums).sum(0)
    scores = scale * scores
    found = scores.log_softmax(1)
    gradients = found.exp() - target
    push.add_(gradients, alpha=rate)
    return torch.stack([(gradients * scores).sum(), -(target * found).sum()])


@_kernel
def _add_gradients(scores, target, push, scale, rate, sums):
    """Of each user the two sums, (B, 2)."""
    count = scores.shape[1]
    powers, exponents = np.empty(count, np.float32), np.empty(count, np.int32)
    for b in range(len(scores)):
        row, wanted, out = scores[b], target[b], push[b]
        total, largest = powers_of(row, scale, powers, exponents)
        share, room = np.float32(1) / total, exponents.view(np.float32)
        for j in range(count):
            gradient = powers[j] * share - wanted[j]
            out[j] += rate * gradient
            powers[j] = gradient * row[j]
        sums[b, 0] = _sum(powers, room) * scale
        for j in range(count):
            powers[j] = wanted[j] * row[j]
        sums[b, 1] = largest + np.log(total) - _sum(powers, room) * scale


def row_powers(scores: Tensor, out: Tensor) -> tuple[Tensor, Tensor]:
    """Fill out with the powers of scores (B, S) over their largest; return the sums of these (B,), and log Z (B,)."""
    if scores.device.type == "cpu" and scores.dtype == torch.float32:
        sums, tables = np.empty((2, len(scores)), np.float32), (scores.numpy(), out.numpy())
        in_threads(lambda part: _powers(*(table[part] for table in tables), sums[:, part]), len(scores), each=LEAST)
        sums, largest = torch.from_numpy(sums)
    else:
        largest = scores.amax(1)
        sums = torch.sub(scores, largest[:, None], out=out).clamp_(min=LOWEST).exp_().sum(1)
    return sums, largest + sums.log()


@_kernel
def _powers(scores, out, sums):
    """Of each user the sum, and the largest score, (2, B)."""
    exponents = np.empty(scores.shape[1], np.int32)
    for b in range(len(scores)):
        sums[0, b], sums[1, b] = powers_of(scores[b], np.float32(1), out[b], exponents)


@_kernel
def powers_of(row, scale, powers, exponents):
    """Fill powers (S,) with exp(scale · row), over the largest of them; returns their sum, and scale · the largest.

    exp x = 2ⁿ exp r, |r| ≤ ln 2 / 2, by a polynomial (S. Moshier, Cephes, expf): within 1e-6, in vector code. None is
    less than the power of LOWEST. exponents (S,): written over.
    """
    largest = _largest(row, powers) * scale
    for j in range(len(row)):
        x = row[j] * scale - largest
        x = x if x > np.float32(LOWEST) else np.float32(LOWEST)
        n = np.floor(x * np.float32(1.44269504) + np.float32(0.5))
        r = x - n * np.float32(0.693359375) - n * np.float32(-2.12194440e-4)  # n times the first is exact
        y = np.float32(1.9875691500e-4) * r + np.float32(1.3981999507e-3)
        y = ((y * r + np.float32(8.3334519073e-3)) * r + np.float32(4.1665795894e-2)) * r
        y = ((y + np.float32(1.6666665459e-1)) * r + np.float32(5.0000001201e-1)) * r * r
        powers[j] = y + r + np.float32(1)
        exponents[j] = (np.int32(n) + np.int32(127)) << np.int32(23)
    factors = exponents.view(np.float32)
    for j in range(len(row)):
        powers[j] *= factors[j]
    return _sum(powers, factors), largest


@_kernel
def _sum(row, room):
    """The sum of row (S,), LANES numbers at a time, always in the same order; room (S,): written over."""
    lanes = min(LANES, len(row))
    sums, start, total = room[:lanes], lanes, np.float32(0)
    sums[:] = row[:lanes]
    while start + lanes <= len(row):
        part = row[start : start + lanes]
        for g in range(lanes):
            sums[g] += part[g]
        start += lanes
    for g in range(lanes):
        total += sums[g]
    for j in range(start, len(row)):
        total += row[j]
    return total


@_kernel
def _largest(row, room):
    """The largest number of row (S,), LANES at a time, as no compiler does by itself; room (S,): written over."""
    lanes = min(LANES, len(row))
    tops, start = room[:lanes], lanes
    tops[:] = row[:lanes]
    while start + lanes <= len(row):
        part = row[start : start + lanes]
        for g in range(lanes):
            tops[g] = part[g] if part[g] > tops[g] else tops[g]
        start += lanes
    largest = tops[0]
    for g in range(1, lanes):
        largest = max(largest, tops[g])
    for j in range(start, len(row)):
        largest = max(largest, row[j])
    return largest


def adam_step(table: Tensor, gradient: Tensor, moments: Tensor, step: int, rate: float) -> None:
    """The step-th step of Adam, in place; moments (2, …), zero at first. Kingma and Ba, ICLR 2015, arXiv 1412.6980.

    torch's own imports torch's compiler, a second that a run of some seconds can do without.
    """
    mean, square = moments
    mean.lerp_(gradient, 1 - BETAS[0])
    square.lerp_(gradient.square(), 1 - BETAS[1])
    spread = (square / (1 - BETAS[1] ** step)).sqrt_().add_(EPSILON)
    table.addcdiv_(mean, spread, value=-rate / (1 - BETAS[0] ** step))
