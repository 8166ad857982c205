"""The gates of the rule `dens` (`mrl.sampler`), learned in several processes: the same in all of them.

They are small, K levels of 4 (d_k² + d_k) numbers, so every process has them whole. In each step all add up what their
interactions of the batch have of the gradient, in float64, 8 bytes a number, and each takes the same step of Adam.
Sums and products round by how many rows a process has: gates, and what they pick and pull, are those of one process
but for rounding.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mrl.sampler import NegativeSampler, Step
from mrl.sharded.group import Group
from mrl.sharded.rows import Rows

MOMENTS = ("exp_avg", "exp_avg_sq")


class Gates:
    """The gates of a sampler in training. All processes make one, of the same initial values, and call the same of it.

    rows: of `table`, all of which the first process owns.
    """

    def __init__(self, group: Group, sampler: NegativeSampler, learning_rate: float) -> None:
        self.group, self.sampler, self.parameters = group, sampler, list(sampler.parameters())
        self.optimiser = torch.optim.Adam(self.parameters, lr=learning_rate, fused=True)
        self.width, numbers = sampler.widths[-1], sum(3 * each.numel() + 1 for each in self.parameters)
        count = -(-numbers // self.width)
        self.rows = Rows((0, count), (0, *[count] * group.size), group.rank)

    def step(self, step: Step, users: Tensor, items: Tensor) -> tuple[float, Tensor, Tensor]:
        """Teach the gates by the triplets of a step, of all processes together.

        users: (B', D) and items (B', 1 + K, D) of own triplets, the positive first, as they are before the step.
        Returns the contrastive loss, a mean over own triplets, and the gradients of their part of the mean over the
        whole batch, by users (B', D) and items (B', 1 + K, D).
        """
        by_user, by_item = torch.zeros_like(users), torch.zeros_like(items)
        learned = [each for level, _ in step.picks for each in self.sampler.gates[level].parameters()]
        found, loss = [torch.zeros_like(each) for each in learned], 0.0
        if len(users):
            with torch.enable_grad():
                users, items = users.detach().requires_grad_(), items.detach().requires_grad_()
                terms = [
                    self.sampler.gates[level].contrast(users[:, :width], items[:, 0, :width], items[:, 1 + n, :width])
                    for n, (level, width) in enumerate(step.picks)
                ]
                mean = self.sampler.contrast * torch.stack(terms).mean()
                share = len(users) / step.size
                by_user, by_item, *found = torch.autograd.grad(mean * share, [users, items, *learned])
            loss = float(mean.detach())
        whole = self.group.sum(torch.cat([each.double().flatten() for each in found]))
        self.optimiser.zero_grad(set_to_none=True)  # gates of levels that are not of this step rest
        for each, part in zip(learned, whole.split([each.numel() for each in learned]), strict=True):
            each.grad = part.view(each.shape).to(each.dtype)
        self.optimiser.step()
        return loss, by_user, by_item

    def is_finite(self) -> bool:
        return all(bool(each.isfinite().all()) for each in self.parameters)

    @torch.no_grad()
    def table(self) -> Tensor:
        """(R', D): own rows of all numbers that the next step depends on, zeros behind them."""
        whole = torch.zeros(self.rows.total * self.width)
        for each, part in zip(self.parameters, self._parts(whole), strict=True):
            state = self.optimiser.state.get(each)  # none before its first step: zeros
            known = [each, *(state[name] for name in (*MOMENTS, "step"))] if state else [each]
            for place, tensor in zip(part, known, strict=False):
                place.copy_(tensor.flatten())
        return whole.view(self.rows.total, self.width)[self.rows.start : self.rows.stop]

    @torch.no_grad()
    def load(self, table: Tensor) -> None:
        """Go on from what `table` gave, of own rows."""
        whole = self.group.gather(table, self.rows.counts).flatten()
        for each, (values, first, second, steps) in zip(self.parameters, self._parts(whole), strict=True):
            each.copy_(values.view(each.shape))
            moments = {name: part.view(each.shape).clone() for name, part in zip(MOMENTS, (first, second), strict=True)}
            self.optimiser.state[each] = {"step": steps[0].clone()} | moments if steps[0] else {}

    def _parts(self, whole: Tensor) -> list[list[Tensor]]:
        """Of each parameter, where its values, its moments and its number of steps stand in all numbers."""
        sizes = [size for each in self.parameters for size in [each.numel()] * 3 + [1]]
        parts = whole[: sum(sizes)].split(sizes)
        return [list(parts[n : n + 4]) for n in range(0, len(parts), 4)]
