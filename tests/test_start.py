"""What training starts from: narrow levels that are as if they were alone, kept, and the rest beside them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mrl.config import TrainConfig
from mrl.ials import mean_score, transpose
from mrl.interactions import Interactions
from mrl.least_squares import nested_objective, nested_sweeps
from mrl.search import fit_least_squares
from mrl.start import _size, narrow_epochs, narrow_width, smoothed, start_model
from mrl.synthetic import planted_interactions
from mrl.trainer import Trainer

CONFIG = TrainConfig(
    dataset="planted",
    widths=(2, 4, 8, 16),
    alpha0=0.1,
    frequency_l2=0.01,
    emphasis=0.0,
    shares=(1.0, 0.5),
    narrow=(4, 0.1, 0.03, 2, 1.5),
    batch_size=512,
    candidates=4,
    device="cpu",
)


@pytest.fixture(scope="module")
def data() -> Interactions:
    return planted_interactions(num_users=120, num_items=60, interactions=2400, branching=(3, 4), seed=0)


@pytest.fixture(scope="module")
def factors(data) -> tuple[torch.Tensor, torch.Tensor]:
    return fit_least_squares(CONFIG, data.train)


def test_narrow_levels_are_those_of_few_dimensions_beside_which_there_are_others() -> None:
    assert narrow_width((4, 8, 16, 32, 64)) == 8 and narrow_width((2, 4, 128)) == 4
    assert narrow_width((4, 8)) == 4 and narrow_width((16, 32)) == narrow_width((4,)) == 0


def test_without_narrow_levels_it_is_least_squares_under_propagation(data, factors) -> None:
    for narrow in ((), (0,)):
        model = start_model(replace(CONFIG, narrow=narrow), data.train, factors)
        plain = smoothed(CONFIG, data.train, factors)
        assert all(torch.equal(one, other) for one, other in zip(model.vectors(), plain.vectors(), strict=True))


def test_the_prefix_of_the_start_is_what_was_fitted_alone_up_to_scale(data, factors) -> None:
    *_, alone = narrow_epochs(CONFIG, data.train, factors, 2)
    model = start_model(CONFIG, data.train, factors)
    mine, own = model.vectors(), alone.vectors()
    scores, expected = mine[0][:, :4] @ mine[1][:, :4].T, own[0] @ own[1].T
    torch.testing.assert_close(scores / scores.norm(), expected / expected.norm())
    plain = smoothed(CONFIG, data.train, factors).vectors()
    assert mean_score(*mine, data.train) == pytest.approx(mean_score(*plain, data.train), rel=1e-4)
    narrow, rest = (
        [_size(*(table[:, part] for table in pair)) for pair in (mine, plain)] for part in (slice(4), slice(4, 16))
    )
    assert narrow[0] / narrow[1] == pytest.approx(1.5 * rest[0] / rest[1], rel=1e-3)


def test_they_are_solved_with_a_penalty_of_their_own(data, factors) -> None:
    own = {"alpha0": 0.1, "l2": 0.03}
    before = tuple(table[:, :4].contiguous() for table in factors)
    weights = (2 / 3, 1 / 3)  # they fall with the width
    solved = nested_sweeps(*before, data.train, transpose(data.train), (2, 4), weights, sweeps=12, **own)
    objective = [nested_objective(*pair, data.train, (2, 4), weights, **own) for pair in (before, solved)]
    assert objective[1] < objective[0]
    model = next(narrow_epochs(CONFIG, data.train, factors, 0))
    ratio = model.users / solved[0]
    torch.testing.assert_close(ratio, ratio[0, 0].expand_as(ratio), rtol=1e-3, atol=1e-3)
    as_is = next(narrow_epochs(replace(CONFIG, narrow=(4, 0, 0, 2, 1)), data.train, factors, 0))
    torch.testing.assert_close(as_is.users, before[0])


def test_history_tells_of_their_sweeps_and_epochs(data, factors) -> None:
    rows: list[dict] = []
    start_model(CONFIG, data.train, factors, rows.append)
    sweeps = [row for row in rows if row["phase"] == "sweeps"]
    assert [row["sweep"] for row in sweeps] == list(range(1, 13)) and {row["stage"] for row in sweeps} == {"narrow"}
    assert [row["epoch"] for row in rows if row["phase"] == "narrow"] == [1, 2]
    assert all(row["seconds"] >= 0 and row["loss"] > 0 for row in rows)


@pytest.mark.parametrize("levels_per_step", [0, 1, 3])
def test_training_leaves_what_is_held(data, factors, levels_per_step: int) -> None:
    config = replace(CONFIG, levels_per_step=levels_per_step)
    model = start_model(config, data.train, factors)
    before = [table.detach().clone() for table in (model.users, model.items)]
    trainer = Trainer(config, data.train, torch.device("cpu"), model)
    for _ in range(4):
        loss, terms = trainer.run_epoch()
    assert loss > 0
    assert all(term != term for term in terms[:2]) and sum(term == term for term in terms[2:]) >= 1
    for table, old in zip((model.users, model.items), before, strict=True):
        assert torch.equal(table[:, :4], old[:, :4]) and not torch.equal(table[:, 4:], old[:, 4:])


def test_a_penalty_that_leaves_nothing_gives_a_start_that_can_be_ranked(data, factors) -> None:
    model = start_model(replace(CONFIG, narrow=(4, 1.0, 100.0, 1, 1)), data.train, factors)
    assert all(table.isfinite().all() for table in model.vectors())


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_starts_from_what_the_cpu_does(data, factors) -> None:
    config = replace(CONFIG, narrow=(4, 0.1, 0.03, 0, 2))
    there = start_model(config, data.train.to("cuda"), tuple(table.cuda() for table in factors)).vectors()
    for here, other in zip(start_model(config, data.train, factors).vectors(), there, strict=True):
        torch.testing.assert_close(other.cpu(), here, rtol=1e-3, atol=1e-4)
