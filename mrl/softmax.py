"""Nested sampled softmax: each level ranks every positive above all items that it might confuse it with.

    L = Σ_k w_k · mean over (u, i) of softplus(log Z_k(u) − s_k(u, i)),      Z_k(u) = Σ_j exp s_k(u, j)

over the items j that u is not known to like. It is the BPR of `mrl.loss` with log Z in place of the score of one
negative. Matryoshka negative sampling takes the highest of a few candidates at every level; here every level weighs all
of them by its own softmax, so that each has hard negatives of its own (Wu et al., arXiv 2201.02327, on one level).

Z is estimated from items that are drawn once a step for all users and levels, popular ones more often: they have most
of it. Each counts by one over its chance to be drawn (Horvitz and Thompson, 1952).

Positives are few and half of them chance, so that narrow vectors over-fit them. Where there is a wide model that they
are cut from, it teaches them, too: each level is to rank as that does,

    + T Σ_k w_k · mean over (u, i) of KL(P(u) ‖ P_k(u)),      P_k(u) ∝ exp s_k(u, ·), P(u) of the wide model

(distillation: Hinton, Vinyals, Dean, arXiv 1503.02531; of rankings Tang and Wang, KDD 2018). P(u) is 0 but for the
items that come first for a user (`mrl.least_squares.rotation.teacher`), so that the term costs next to nothing. Of
these, too, only those that are drawn count: what chance does to P_k, it does to P.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding_bag, softplus

from mrl.data import Positives
from mrl.distillation import Teacher, row_powers
from mrl.widths import check_level_weights, check_widths

ITEMS, MOST_ITEMS = 2048, 8192  # drawn a step, of a large catalogue: at least, at most
ITEM_SHARE = 0.2  # of it, between these
TEACHING = 1.0  # T, the weight of what the teacher says, beside 1 of the positives
POPULARITY = 0.5  # the power of an item's positives that it is drawn by
TINY = 1e-9  # in place of a sum of nothing
NEVER = -1e9  # the score of an item that a user has seen
NUMBERS = 2**19, 2**27  # scores at a time, on a CPU (so that they stay in its cache) and on a GPU


class NestedSoftmax(nn.Module):
    """The weighted sum over levels of a sampled softmax, and the penalty that belongs to it.

    positives: what each user is known to like. widths, level_weights: K of each; weights default to 1/K.
    item_counts: (I,) of all positives, where these are those of some users.
    teacher: of each user some items (U, N) and P of each (U, N), 0 for no such item; None for no such term.
    """

    def __init__(
        self,
        positives: Positives,
        widths: Sequence[int],
        level_weights: Sequence[float] | None = None,
        item_counts: Tensor | None = None,
        teacher: Teacher | None = None,
    ):
        super().__init__()
        self.teacher = teacher
        self.positives, self.widths = positives, check_widths(widths)
        self.level_weights = check_level_weights(level_weights, self.widths)
        item_counts = positives.item_counts if item_counts is None else item_counts
        popularity = (item_counts.float() + 1) ** POPULARITY
        share = min(MOST_ITEMS, int(ITEM_SHARE * positives.num_items))
        self.drawn = min(positives.num_items, max(ITEMS, share))
        self.register_buffer("popularity", popularity, persistent=False)
        self.register_buffer("log_chance", _chances(popularity, self.drawn).log(), persistent=False)

    def forward(
        self,
        user_rows: Tensor,
        users: Tensor,
        items: Tensor,
        levels: Sequence[int] | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the total (scalar) and the term of each level (K,), detached.

        user_rows: (B,), all of whose positives count. users: (B, D) their vectors. items: (I, D), of all items.
        levels: which levels count in this step, all if None. A subset is scaled by K/n, so that its expectation is the
        whole loss.
        """
        some = range(len(self.widths)) if levels is None else levels
        widths = [self.widths[level] for level in some]
        weights = [self.level_weights[level] * len(self.widths) / len(some) for level in some]
        known = self.positives.take(user_rows)
        sample = torch.arange(len(items), device=items.device)
        if self.drawn < len(items):
            sample = torch.multinomial(self.popularity, self.drawn, generator=generator)
        place = torch.full((len(items),), -1, device=items.device)
        place[sample] = torch.arange(self.drawn, device=items.device)
        pairs = known.users.long(), known.items.long(), place[known.items.long()]
        means = taught = None
        if self.teacher is not None:
            wanted, likely = (table[user_rows] for table in self.teacher)
            wanted = wanted.long()
            log_chance = self.log_chance[wanted]
            likely = (likely * (place[wanted] >= 0) * (-log_chance).exp()).to(items)
            likely /= likely.sum(1, keepdim=True).clamp_min(TINY)
            means = embedding_bag(wanted, items, mode="sum", per_sample_weights=likely)  # (B, D): Σ P q
            taught = TEACHING * likely.sum(1), (likely * log_chance - torch.special.entr(likely)).sum(1)
        return _Loss.apply(users, items, means, *pairs, sample, self.log_chance[sample], widths, weights, taught)

    def of_dimension(self, table: Tensor) -> Tensor:
        """(D,): of every dimension of a table (R, D) the weights of the levels that see it."""
        weights = table.new_zeros(table.shape[1])
        for width, weight in zip(self.widths, self.level_weights, strict=True):
            weights[:width] += weight
        return weights

    def penalty(self, l2: float, users: Tensor, items: Tensor) -> Tensor:
        """λ/2 of the mean over positives of Σ_k w_k (‖p[:d_k]‖² + ‖q[:d_k]‖²/2 + mean over all items of the same).

        users (U, D), items (I, D): the ego vectors. A level shrinks what it sees, so that wide ones do not shrink more
        than they learn; an item as often as it is a positive or, as likely as any other, a negative.
        """
        of_dimension = self.of_dimension(users)
        count = len(self.positives)
        of_user = self.positives.counts.to(users.dtype) / count
        of_item = (self.positives.item_counts.to(users.dtype) / count + 1 / len(items)) / 2
        norms = [(rows.square() @ of_dimension) @ of_row for rows, of_row in ((users, of_user), (items, of_item))]
        return l2 / 2 * (norms[0] + norms[1])


def _chances(popularity: Tensor, drawn: int) -> Tensor:
    """The chance of each item (I,) to be among so many that are drawn without repeats, by popularity (I,).

    1 − exp(−t · popularity), as where items wait for an exponential time and the first to come are drawn; t such that
    chances sum up to their number.
    """
    weights = popularity.double() / popularity.sum()
    if drawn == len(weights):
        return torch.ones_like(popularity)
    time = torch.tensor(float(drawn), dtype=torch.float64, device=weights.device)
    for _ in range(50):  # Newton, on a concave function from its left
        kept = (-time * weights).exp()
        time = time + (drawn - (1 - kept).sum()) / (weights * kept).sum()
    return (1 - (-time * weights).exp()).to(popularity.dtype)


class _Loss(torch.autograd.Function):
    """The loss with its gradients in the same pass, some users at a time: scores are never kept for later."""

    @staticmethod
    def forward(ctx, users, items, means, rows, liked, places, sample, log_chance, widths, weights, taught):
        """rows, liked, places (P,): of each positive the row in `users`, the item, its place in `sample`, else −1.

        Positives are in the order of rows. means (B, D): of the teacher Σ P q. taught: T, or 0 for users whom it says
        nothing of (B,), and Σ P log (P · chance) (B,). Both are None where there is no teacher.
        """
        # all tables lie by dimension, where products of few dimensions are faster
        sampled, own_users = items[sample].T.contiguous(), users.T.contiguous()  # (D, S), (D, B)
        item_out, user_out, sample_out = (torch.zeros_like(table) for table in (items, own_users, sampled))
        mean_out = None if means is None else torch.zeros_like(means)
        terms, shift = users.new_zeros(len(widths)), -log_chance.to(users)
        size = max(1, NUMBERS[users.device.type == "cuda"] // len(sample))
        room = users.new_empty(3, min(size, len(users)), len(sample))
        starts = range(0, len(users), size)
        ends = [len(rows)]
        if len(starts) > 1:
            ends = torch.searchsorted(rows, torch.arange(size, len(users) + size, size, device=rows.device)).tolist()
        for first, start, end in zip(starts, [0, *ends], ends, strict=False):
            some, pairs = slice(first, first + size), slice(start, end)
            own, at, positives = users[some], rows[pairs] - first, items[liked[pairs]]
            parts, is_drawn = room[:, : len(own)].unbind(), places[pairs] >= 0
            seen = at[is_drawn], places[pairs][is_drawn]
            lesson = None
            if taught is not None:
                counts = taught[0][some] * torch.bincount(at, minlength=len(own))  # a user counts by positives
                lesson = means[some], mean_out[some], taught[1][some], counts
            tables = own, own_users[:, some], sampled, shift, positives, at, seen
            rates = [weight / len(rows) for weight in weights]
            losses, pulls = _gradients(*tables, widths, rates, lesson, user_out[:, some], sample_out, *parts)
            terms += losses / len(rows)
            user_out[:, some].T.index_add_(0, at, pulls * positives, alpha=-1)
            item_out.index_add_(0, liked[pairs], pulls * own[at], alpha=-1)
        item_out.index_add_(0, sample, sample_out.T)
        ctx.save_for_backward(user_out.T, item_out, mean_out)
        ctx.mark_non_differentiable(terms)
        return terms @ terms.new_tensor(weights), terms

    @staticmethod
    def backward(ctx, of_loss, _):
        users, items, means = ctx.saved_tensors
        return of_loss * users, of_loss * items, None if means is None else of_loss * means, *[None] * 8


def _gradients(own, users, sampled, shift, positives, rows, seen, widths, rates, lesson, user_out, sample_out, *room):
    """Of users (B, D) and positives (P, D): the sums of each level's terms (K,), and minus the derivatives of the whole
    loss by scores of positives, as each dimension sees them (P, D).

    Those by users and sampled items but for that, (D, B) and (D, S) as these, are added to user_out and sample_out.
    shift: −log chance (S,). lesson: None, or Σ P q (B, D), where its derivatives (B, D) go, Σ P log (P · chance) (B,)
    and T times how often a user counts (B,). room: three tables (B, S) to be written over.
    """
    scores, powers, push = room
    products = own[rows] * positives
    pulls, losses, told = torch.zeros_like(positives), [], [0.0] * len(widths)
    torch.addmm(shift, own[:, : widths[-1]], sampled[: widths[-1]], out=scores)
    scores[seen] = NEVER  # and stays there, whatever is taken away
    if lesson is not None:
        means, mean_out, known, counts = lesson
        said = (own * means).cumsum(1).T[[width - 1 for width in widths]]
        told = counts * (known - said)  # (K, B): Σ P (log P − s + log chance)
        shares = torch.zeros_like(own[0])  # (D,): the rates of the levels that see a dimension
        for width, rate in zip(widths, rates, strict=True):
            shares[:width] += rate
        pull = counts[:, None] * shares
        user_out -= (pull * means).T
        mean_out.addcmul_(pull, own, value=-1)
    push.zero_()
    for width, columns, rate, left in reversed(list(zip(widths, _columns(widths), rates, told, strict=True))):
        sums, log_z = row_powers(scores, powers)
        gap = log_z[rows] - products[:, :width].sum(1)
        pull = gap.sigmoid() * rate
        pulls[:, :width] += pull[:, None]
        weights = torch.zeros_like(log_z).index_add_(0, rows, pull)
        losses.append(softplus(gap).sum())
        if lesson is not None:
            losses[-1] += (left + counts * log_z).sum()
            weights.add_(counts, alpha=rate)
        # (B, S), by scores: of this level and all wider ones, which see its dimensions, too
        push.addcmul_(powers, (weights / sums)[:, None])
        user_out[columns] += sampled[columns] @ push.T
        sample_out[columns].addmm_(users[columns], push)
        if columns.start:
            scores.addmm_(own[:, columns], sampled[columns], alpha=-1)
    return torch.stack(losses[::-1]), pulls


def _columns(widths: Sequence[int]) -> list[slice]:
    """The dimensions that each level has and no narrower one."""
    return [slice(*ends) for ends in pairwise([0, *widths])]
