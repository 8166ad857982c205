"""Adam row by row against torch's Adam over whole tables, which moves every row at every step."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mrl.kernels.row_adam import RowAdam

ROWS, DIM = 60, 6


def tables() -> tuple[torch.nn.Parameter, torch.nn.Parameter]:
    start = torch.randn(ROWS, DIM, generator=torch.Generator().manual_seed(0)) * 0.1
    return torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())


def batches(seed: int, steps: int, scale: float):
    """Rows, some of them twice, and gradients; most rows rest for a long time, some for longer than momentum lasts."""
    rng = np.random.default_rng(seed)
    for step in range(steps):
        rows = rng.integers(0, ROWS if step % 50 == 0 else 8 if step % 3 else 20, 12)
        yield rows, (rng.normal(size=(12, DIM)) * scale).astype(np.float32)


@pytest.mark.parametrize(("scale", "apart"), [(1.0, 1e-5), (1e-3, 1e-5), (1e-5, 3e-4)])
def test_it_is_adam_over_the_whole_table(scale: float, apart: float) -> None:
    """Gradients of 1e-5 make √v 30 ε, and smaller where one happens to be near zero: there the mean of ε tells."""
    sparse, dense = tables()
    adam = torch.optim.Adam([dense], lr=1e-2)
    optimiser = RowAdam([sparse], 1e-2)
    for epoch in range(2):
        optimiser.start_epoch(400)
        for step, (rows, gradients) in enumerate(batches(epoch, 400, scale)):
            optimiser.next_step()
            optimiser.catch_up(sparse, rows)
            if step % 20 == 0:  # what a step reads is what the whole table would say
                torch.testing.assert_close(sparse[rows], dense[rows], rtol=0, atol=apart)
            optimiser.update(sparse, rows, gradients)
            dense.grad = torch.zeros(ROWS, DIM).index_add_(0, torch.from_numpy(rows), torch.from_numpy(gradients))
            adam.step()
        optimiser.finish_epoch()
        torch.testing.assert_close(sparse, dense, rtol=0, atol=apart)  # each row has moved by about 1
        for name, moment in adam.state[dense].items():
            torch.testing.assert_close(optimiser.state[sparse][name], moment, rtol=1e-4, atol=1e-7 * scale)


def test_rows_that_no_gradient_ever_touched_stay() -> None:
    table, _ = tables()
    before = table.detach().clone()
    optimiser = RowAdam([table], 0.1)
    optimiser.start_epoch(1)
    optimiser.next_step()
    rows = np.array([3, 3])
    optimiser.catch_up(table, rows)
    optimiser.update(table, rows, np.ones((2, DIM), np.float32))
    optimiser.finish_epoch()
    assert [row for row in range(ROWS) if not torch.equal(before[row], table[row])] == [3]
    torch.testing.assert_close(before[3] - table[3], torch.full((DIM,), 0.1))  # the first step of Adam is the rate


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_same_bits_with_any_number_of_threads_and_when_taken_up_again(threads: int, monkeypatch) -> None:
    monkeypatch.setattr("mrl.kernels.row_adam.LEAST", 2)

    def train(split: bool) -> torch.Tensor:
        table, _ = tables()
        optimiser = RowAdam([table], 1e-2)
        for epoch in range(2):
            if split and epoch:  # as from a checkpoint
                state = {name: moment.clone() for name, moment in optimiser.state[table].items()}
                optimiser = RowAdam([table], 1e-2)
                optimiser.state[table] = state
            optimiser.start_epoch(50)
            for rows, gradients in batches(epoch, 50, 1.0):
                optimiser.next_step()
                optimiser.catch_up(table, rows)
                optimiser.update(table, rows, gradients)
            optimiser.finish_epoch()
        return table.detach()

    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    undisturbed = train(False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert torch.equal(undisturbed, train(True))
