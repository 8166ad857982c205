"""What training starts from: axes turned so that narrow levels rank better, and wider ones as they did."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mrl.config import TrainConfig
from mrl.evaluate import evaluate
from mrl.folds import fit_least_squares
from mrl.interactions import Interactions, hold_out
from mrl.start import learn_turn, narrow_levels, smoothed, start_model, turned
from mrl.synthetic import planted_interactions
from mrl.trainer import Trainer

CONFIG = TrainConfig(
    dataset="planted",
    widths=(2, 4, 12, 24),
    alpha0=0.1,
    frequency_l2=0.03,
    emphasis=0.0,
    growth=0.0,
    shares=(1.0, 0.5),
    turn=4,
    device="cpu",
)


@pytest.fixture(scope="module")
def data() -> Interactions:
    planted = planted_interactions(num_users=400, num_items=150, interactions=8000, branching=(4, 4), seed=0)
    return hold_out(planted, 0.2, seed=0)


@pytest.fixture(scope="module")
def factors(data) -> tuple[torch.Tensor, torch.Tensor]:
    return fit_least_squares(CONFIG, data.train)


def ndcg(data: Interactions, vectors, widths=CONFIG.widths) -> list[float]:
    result = evaluate(*vectors, data, split="valid", widths=widths, ks=(20,))
    return [result.value("ndcg@20", width=width) for width in widths]


def test_narrow_levels_are_those_of_few_dimensions_below_a_wider_one() -> None:
    assert narrow_levels((4, 8, 16, 32, 64)) == narrow_levels((4, 8, 12)) == narrow_levels((2, 4, 128)) == 2
    assert narrow_levels((4, 8)) == 1 and narrow_levels((16, 32)) == narrow_levels((4,)) == 0
    assert narrow_levels((4, 8, 16, 32, 64), 32) == 4 and narrow_levels((4, 8, 16, 32, 64), 4) == 1


def test_a_rotation_changes_no_score_of_its_whole_span_and_wider(factors) -> None:
    rotation = torch.linalg.qr(torch.randn(12, 12, generator=torch.Generator().manual_seed(0)))[0]
    users, items = turned(factors, rotation)
    for width in (12, 24):
        expected = factors[0][:, :width] @ factors[1][:, :width].T
        torch.testing.assert_close(users[:, :width] @ items[:, :width].T, expected, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(users[:, :4] @ items[:, :4].T, factors[0][:, :4] @ factors[1][:, :4].T, atol=1e-2)


def test_narrow_levels_rank_better_for_it_and_wider_ones_as_before(data, factors) -> None:
    rows: list[dict] = []
    plain = ndcg(data, smoothed(CONFIG, data.train, factors).vectors())
    better = ndcg(data, start_model(CONFIG, data.train, factors, rows.append).vectors())
    assert sum(better[:2]) > 1.1 * sum(plain[:2])
    assert better[2:] == pytest.approx(plain[2:], rel=1e-3)  # propagated too
    (row,) = rows
    assert row["phase"] == "turn" and 0 < row["loss"] < 1 and row["seconds"] > 0


def test_more_levels_may_count_as_narrow(data, factors) -> None:
    plain = smoothed(CONFIG, data.train, factors)
    wider = start_model(replace(CONFIG, narrow=12), data.train, factors)
    narrowest = start_model(replace(CONFIG, narrow=2), data.train, factors)
    figures = [ndcg(data, model.vectors()) for model in (plain, narrowest, wider)]
    assert figures[1][1:] == pytest.approx(figures[0][1:], rel=1e-3) and figures[1][0] > 1.1 * figures[0][0]
    assert figures[2][3] == pytest.approx(figures[0][3], rel=1e-3) and figures[2][2] != pytest.approx(figures[0][2])
    assert sum(figures[2][:2]) > 1.1 * sum(figures[0][:2])


def test_it_is_the_same_every_time_and_another_by_another_seed(data, factors) -> None:
    def learned(seed: int = 0, candidates: int = 4) -> torch.Tensor:
        return learn_turn(*factors, data.train, CONFIG.widths[:3], candidates=candidates, seed=seed)[0]

    assert torch.equal(learned(), learned())
    assert not torch.equal(learned(), learned(seed=1)) and not torch.equal(learned(), learned(candidates=8))


def test_level_weights_say_for_which_level_it_is(data, factors) -> None:
    def by(*weights: float) -> list[float]:
        rotation, _ = learn_turn(*factors, data.train, CONFIG.widths[:3], level_weights=weights, candidates=4)
        return ndcg(data, turned(factors, rotation))[:2]

    first, second = by(1, 0), by(0, 1)
    assert first[0] > 1.02 * second[0] and first[1] < second[1]
    assert by(0, 0) == pytest.approx(by(1, 1), rel=1e-2)  # no narrow level has a weight: all alike


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
@pytest.mark.parametrize("shares", [(0.0, 0.0), (1.0, 0.5)])
def test_narrow_levels_are_held_once_turned(data, factors, shares, device) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    positives, factors = data.train.to(device), tuple(table.to(device) for table in factors)
    for turn, narrow in ((CONFIG.turn, 8), (CONFIG.turn, 12), (0, 8)):
        config = replace(CONFIG, shares=shares, turn=turn, narrow=narrow)
        trainer = Trainer(config, positives, torch.device(device), start_model(config, positives, factors))
        before = trainer.vectors()
        trainer.run_epoch()
        trainer.run_epoch()
        for one, other in zip(trainer.vectors(), before, strict=True):
            assert torch.equal(one[:, :4], other[:, :4]) == bool(turn)  # the widths are 2, 4, 12, 24
            assert (one[:, 4:] != other[:, 4:]).any(0).all()


def test_without_a_turn_or_narrow_levels_it_is_least_squares_under_propagation(data, factors) -> None:
    plain = smoothed(CONFIG, data.train, factors).vectors()
    for other in ({"turn": 0}, {"turn": None}, {"widths": (12, 24)}):
        model = start_model(replace(CONFIG, **other), data.train, factors)
        assert all(torch.equal(one, other) for one, other in zip(model.vectors(), plain, strict=True))


def test_factors_that_score_nothing_stay_as_they_are(data, factors) -> None:
    nothing = tuple(torch.zeros_like(table) for table in factors)
    rotation, _ = learn_turn(*nothing, data.train, CONFIG.widths[:3])
    assert torch.equal(rotation, torch.eye(12))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_turns_as_well_as_the_cpu(data, factors) -> None:
    there = start_model(CONFIG, data.train.to("cuda"), tuple(table.cuda() for table in factors)).vectors()
    here = start_model(CONFIG, data.train, factors).vectors()  # other random numbers
    assert ndcg(data, tuple(table.cpu() for table in there)) == pytest.approx(ndcg(data, here), rel=0.1)
