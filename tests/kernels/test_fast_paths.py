"""Fast paths compared with plain ones: what passes, what is dropped, and that one warning says so."""

from __future__ import annotations

import warnings
from threading import Thread

import pytest
import torch

from mrl.kernels.fast_paths import (
    BFLOAT16_CANDIDATES,
    CUDA_GRAPH,
    TF32_SHORTLISTS,
    check,
    check_anew,
    is_off,
    is_usable,
    list_difference,
    score_difference,
    step_difference,
    turn_off,
    verdicts,
)


@pytest.fixture(autouse=True)
def run():
    with check_anew():
        yield


def unequal(fast: int, plain: int) -> str | None:
    return None if fast == plain else f"{fast} is not {plain}"


def fails() -> int:
    raise RuntimeError("no kernel image is available\nand much more")


def runs_out_of_memory() -> int:
    raise torch.OutOfMemoryError("CUDA out of memory")


def test_a_path_that_agrees_is_used_and_not_checked_again() -> None:
    assert verdicts() == {}
    assert is_usable(CUDA_GRAPH, lambda: 1, lambda: 1, unequal)
    assert is_usable(CUDA_GRAPH, fails, fails, unequal)
    assert verdicts() == {"cuda_graph": "used"}


@pytest.mark.parametrize(("fast", "why"), [(lambda: 2, "2 is not 1"), (fails, "no kernel image is available")])
def test_a_path_that_differs_or_raises_is_off_with_one_warning(fast, why: str) -> None:
    with pytest.warns(UserWarning) as warned:
        for _ in range(3):
            assert not is_usable(BFLOAT16_CANDIDATES, fast, lambda: 1, unequal)
    assert [str(each.message) for each in warned] == [
        f"bfloat16_candidates is off, so candidates are scored in float32: {why}"
    ]
    assert verdicts() == {"bfloat16_candidates": f"off: {why}"}
    assert is_off(BFLOAT16_CANDIDATES) and not is_off(CUDA_GRAPH)


def test_what_is_off_stays_off_whatever_is_found_later() -> None:
    with pytest.warns(UserWarning, match="^cuda_graph is off, so training steps are started kernel by kernel: one$"):
        turn_off(CUDA_GRAPH, "one")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        turn_off(CUDA_GRAPH, "two")
        assert not check(CUDA_GRAPH, lambda: 1, lambda: 1, unequal)
    assert verdicts() == {"cuda_graph": "off: one"}


def test_out_of_memory_is_raised_and_decides_nothing() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        is_usable(TF32_SHORTLISTS, runs_out_of_memory, lambda: 1, unequal)
    assert verdicts() == {}


def test_every_run_and_every_thread_has_verdicts_of_its_own() -> None:
    with pytest.warns(UserWarning):
        turn_off(TF32_SHORTLISTS, "broken")
    with check_anew():
        assert verdicts() == {} and is_usable(TF32_SHORTLISTS, lambda: 1, lambda: 1, unequal)
    seen = []

    def other_run() -> None:
        with check_anew():
            seen.append(verdicts())

    thread = Thread(target=other_run)
    thread.start()
    thread.join()
    assert seen == [{}] and verdicts() == {"tf32_shortlists": "off: broken"}


# --- what may differ -------------------------------------------------------------------------------------------------


def step(seed: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(4, generator=generator), [torch.randn(50, 8, generator=generator) for _ in range(2)]


def test_steps_agree_but_for_the_order_of_sums() -> None:
    values, moves = step(0)
    assert step_difference((values, moves), (values, moves)) is None
    rounded = values * (1 + 1e-6), [move + 1e-6 * torch.randn(move.shape) for move in moves]
    assert step_difference(rounded, (values, moves)) is None
    flipped = [moves[0].clone(), moves[1]]
    flipped[0][3, 2] *= -1  # a gradient that nearly cancelled
    assert step_difference((values, flipped), (values, moves)) is None
    still = torch.zeros(5, 8)  # a table that does not learn
    assert step_difference((values, [still]), (values, [still])) is None


def test_steps_that_differ_are_told_apart() -> None:
    values, moves = step(0)
    assert step_difference((values + 0.01, moves), (values, moves)).startswith("the loss is off by 0.01 from ")
    assert step_difference((values * torch.nan, moves), (values, moves)).startswith("the loss is off by nan")
    for wrong in (step(1)[1], [2 * move for move in moves], [moves[0], 0 * moves[1]], [moves[0], moves[1] * torch.nan]):
        assert step_difference((values, wrong), (values, moves)).startswith("a step moves the model elsewhere: ")


def candidates(seed: int, dim: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    """Users (B, D) and the vectors of their candidates (B, M, D)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(500, dim, generator=generator), torch.randn(500, 16, dim, generator=generator)


def inner(users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
    return torch.einsum("bd,bmd->bm", users, items)[:, None]  # (B, 1, M)


@pytest.mark.parametrize("dim", [1, 4, 128])
def test_scores_in_bfloat16_flip_near_ties_only(dim: int) -> None:
    users, items = candidates(0, dim)
    items[:, 1] = items[:, 0] * (1 + 1e-3)  # nearer than bfloat16 can tell
    plain, sizes = inner(users, items), inner(users.abs(), items.abs())
    fast = inner(users.bfloat16().float(), items.bfloat16().float()).bfloat16().float()
    assert score_difference(fast, plain, sizes) is None
    lost = plain.amax(-1) - plain.gather(-1, fast.argmax(-1, keepdim=True))[..., 0]
    assert (lost > 0).any() and (lost <= 2 * 4 * 2.0**-8 * sizes.amax(-1)).all()


def test_scores_that_are_wrong_are_told_in_shares() -> None:
    users, items = candidates(1)
    plain, sizes = inner(users, items), inner(users.abs(), items.abs())
    other = inner(users.roll(1, 0), items)
    assert "of the scores are off by more than bfloat16 rounds, and 9" in score_difference(other, plain, sizes)
    assert score_difference(torch.full_like(plain, torch.nan), plain, sizes).startswith("100.00% of the scores")
    one = plain.clone()
    one[7, 0, 3] += 0.1 * sizes[7, 0, 3]
    assert score_difference(one, plain, sizes).startswith("0.01% of the scores")
    short = inner(users[:, :32], items[..., :32])  # a level that sees too little
    assert score_difference(short, plain, sizes) is not None


def test_lists_are_equal_or_not() -> None:
    ids, best = torch.arange(12).view(2, 2, 3), torch.rand(2, 2, 3, dtype=torch.float64)
    best[0, 0, 2] = -torch.inf  # a list that has ended
    assert list_difference((ids, best), (ids.clone(), best.clone())) is None
    swapped, nudged = ids.clone(), best.clone()
    swapped[1, 0] = ids[1, 0].flip(0)
    nudged[0, 1, 0] += 1e-15
    assert list_difference((swapped, best), (ids, best)) == "1 of 4 lists differ"
    assert list_difference((swapped, nudged), (ids, best)) == "2 of 4 lists differ"
