"""Gradients by hand are those of autograd on the plain loss, whatever is seen, and steps of Adam are those of torch."""

from __future__ import annotations

import pytest
import torch

from mrl.kernels.distillation import adam_step, distillation_gradients, distillation_loss

USERS, ITEMS, FITTED, SERVED = 7, 30, 12, 8


@pytest.mark.parametrize("levels", [(8,), (2, 4, 8), (1, 3)], ids=str)  # the last: of columns that no level sees
@pytest.mark.parametrize("pairs", [0, 40])
def test_gradients_are_those_of_the_loss(levels, pairs) -> None:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    users, items = draw(USERS, FITTED), draw(ITEMS, FITTED)
    seen = torch.stack([torch.randint(size, (pairs,), generator=generator) for size in (USERS, ITEMS)])
    rotation, sharpness = (0.5 * draw(FITTED, SERVED)).requires_grad_(), draw(len(levels)).requires_grad_()
    weights = torch.arange(1.0, 1 + len(levels), dtype=torch.float64)
    batch = users, items, seen
    loss = distillation_loss(*batch, rotation, sharpness, levels, weights)
    wanted = torch.autograd.grad(loss, [rotation, sharpness])
    room = torch.full((len(levels) + 3, USERS, ITEMS), torch.nan, dtype=torch.float64)
    found = distillation_gradients(*batch, rotation.detach(), sharpness.detach(), levels, weights, room.unbind())
    assert loss > 0.1
    for gradient, expected in zip(found, wanted, strict=True):
        torch.testing.assert_close(gradient, expected)


def test_the_loss_is_the_divergence_of_unseen_items_and_zero_of_the_whole() -> None:
    generator = torch.Generator().manual_seed(1)
    users, items = (torch.randn(rows, 3, generator=generator, dtype=torch.float64) for rows in (2, 4))
    seen, one = torch.tensor([[0, 1], [3, 0]]), torch.eye(3, dtype=torch.float64)
    nothing, weights = torch.zeros(2, dtype=torch.float64), torch.tensor([3.0, 1.0], dtype=torch.float64)
    loss = 0.0
    for user, hidden in enumerate((3, 0)):
        left = [item for item in range(4) if item != hidden]
        whole, prefix = (users[user, :width] @ items[left, :width].T for width in (3, 1))
        p, q = whole.softmax(0), prefix.softmax(0)
        loss += 0.75 * float((p * (p / q).log()).sum()) / 2  # of the level as wide as the whole: nothing
    found = distillation_loss(users, items, seen, one, nothing, (1, 3), weights)
    assert float(found) == pytest.approx(loss)
    whole = distillation_loss(users, items, seen, one, nothing[:1], (3,), weights[:1])
    assert float(whole) == pytest.approx(0, abs=1e-12)


def test_steps_are_those_of_torch() -> None:
    generator = torch.Generator().manual_seed(2)
    table = torch.randn(5, 3, generator=generator)
    other, moments = table.clone().requires_grad_(), torch.zeros(2, 5, 3)
    optimiser = torch.optim.Adam([other], lr=0.1)
    for step in range(1, 6):
        gradient = torch.randn(5, 3, generator=generator) * step
        optimiser.param_groups[0]["lr"] = 0.1 / step
        other.grad = gradient
        optimiser.step()
        adam_step(table, gradient, moments, step, 0.1 / step)
    torch.testing.assert_close(table, other.detach())
