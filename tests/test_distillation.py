"""Gradients by hand are those of autograd on the plain loss, whatever is seen, and steps of Adam are those of torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from mrl.distillation import adam_step, add_gradients, distillation_gradients, powers_of, row_powers

USERS, ITEMS, FITTED, SERVED = 7, 30, 12, 8


def distillation_losses(users, items, seen, rotation, sharpness, levels) -> torch.Tensor:
    """KL(P ‖ P_k) of each level by plain formulas, mean over the users."""
    hidden = torch.zeros(len(users), len(items), dtype=users.dtype)
    hidden[*seen] = -1e9
    target, losses = (users @ items.T + hidden).softmax(1), []
    rotated_users, rotated_items = users @ rotation, items @ rotation
    for width, sharp in zip(levels, sharpness, strict=True):
        scores = sharp.exp() * (rotated_users[:, :width] @ rotated_items[:, :width].T) + hidden
        losses.append(cross_entropy(scores, target) - torch.special.entr(target).sum(1).mean())
    return torch.stack(losses)


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
    losses = distillation_losses(*batch, rotation, sharpness, levels)
    wanted = torch.autograd.grad(losses @ weights / weights.sum(), [rotation, sharpness])
    room = torch.full((3, USERS, ITEMS), torch.nan, dtype=torch.float64)
    found = distillation_gradients(*batch, rotation.detach(), sharpness.detach(), levels, weights, room.unbind())
    assert losses.min() > 0.1
    losses = losses.detach() + torch.special.entr(room[0]).sum(1).mean()
    for gradient, expected in zip(found, (*wanted, losses), strict=True):
        torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("items", [1, 5, 64, 200, 1000])
def test_the_compiled_loop_is_the_plain_one_for_any_threads(items) -> None:
    generator, before = torch.Generator().manual_seed(3), torch.get_num_threads()
    scores = 20 * torch.randn(50, items, generator=generator)
    scores[3, : items // 2] = -1e9
    target, push = torch.rand(50, items, generator=generator).softmax(1), torch.randn(50, items, generator=generator)
    plain = push.double()
    expected = add_gradients(scores.double(), target.double(), 1.7, 0.3, plain)
    found = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            table = push.clone()
            found.append((add_gradients(scores, target, 1.7, 0.3, table), table))
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(found[0][0].double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found[0][1].double(), plain, rtol=1e-5, atol=1e-6)
    for other in found[1:]:
        assert all(map(torch.equal, other, found[0]))


def test_powers_are_close_and_no_subnormal_numbers() -> None:
    """On a CPU those take ten times as long, and scores that spread make ever more of them."""
    row = np.linspace(-200, 3, 4001, dtype=np.float32)
    powers, exponents = np.empty_like(row), np.empty(len(row), np.int32)
    total, largest = powers_of(row, np.float32(0.5), powers, exponents)
    exact = np.exp(0.5 * row.astype(np.float64) - 1.5)
    near = exact > 1e-26
    np.testing.assert_allclose(powers[near], exact[near], rtol=4e-6)
    assert powers.min() * 1e-10 > np.finfo(np.float32).tiny and powers[~near].max() < 2e-26
    assert (total, largest) == (pytest.approx(exact.sum(), rel=1e-5), pytest.approx(1.5))


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
    found = distillation_losses(users, items, seen, one, nothing, (1, 3)) @ weights / 4
    assert float(found) == pytest.approx(loss)
    whole = distillation_losses(users, items, seen, one, nothing[:1], (3,))
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])  # the compiled loop, and plain operations
def test_powers_of_rows_far_apart_are_no_subnormal_numbers(dtype) -> None:
    scores = torch.linspace(-200, 0, 4001, dtype=dtype).repeat(40, 1)
    scores[1] -= 300
    scores[0, 0] = -1e9
    sums, log_z = row_powers(scores, powers := torch.empty_like(scores))
    assert powers.min() * 1e-10 > torch.finfo(torch.float32).tiny
    torch.testing.assert_close(log_z, scores.double().logsumexp(1).to(dtype))
    torch.testing.assert_close(powers / sums[:, None], scores.softmax(1), atol=1e-20, rtol=1e-5)
