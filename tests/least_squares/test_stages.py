"""The default recipe stage by stage: each is what the one before it is, and one step more."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from settings import GIVEN, train_config

from mrl.data import Positives
from mrl.data.synthetic import planted_interactions
from mrl.least_squares.fit import fit_least_squares, initial_model
from mrl.least_squares.stages import TRAINED, refit_stages, used_stages
from mrl.words import STAGES

CHOSEN = {**GIVEN, "widths": (2, 4, 8), "fit_width": 16, "nested_sweeps": 1, "nu": 1.0, "l2_width_exponent": 0.3}
CHOSEN |= {"hops": 2, "l2": 0.01, "initial_scale": 1.0}
NOTHING = {"nested_sweeps": 0, "propagation": (0.0, 0.0), "rotation": False}


@pytest.fixture(scope="module")
def positives() -> Positives:
    return planted_interactions(num_users=120, num_items=64, interactions=2000).train


def refit(positives: Positives, **changes: object) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    return dict(refit_stages(train_config(**CHOSEN | changes), positives))


def scores(vectors: tuple[torch.Tensor, torch.Tensor], width: int = 8) -> np.ndarray:
    users, items = (table[:, :width].numpy() for table in vectors)
    return users @ items.T


def test_each_stage_is_one_step_more(positives) -> None:
    stages = refit(positives)
    assert [*stages, TRAINED] == list(STAGES)
    assert all(users.shape == (120, 8) and items.shape == (64, 8) for users, items in stages.values())
    assert not np.allclose(scores(stages["ials"]), scores(stages["nested"]), atol=1e-3)
    assert not np.allclose(scores(stages["nested"]), scores(stages["propagated"]), atol=1e-3)
    for width in (2, 8):  # of what was fitted wider another part is cut
        assert not np.allclose(scores(stages["propagated"], width), scores(stages["rotated"], width), atol=1e-3)


def test_a_rotation_of_what_was_not_fitted_wider_changes_prefixes_only(positives) -> None:
    stages = refit(positives, fit_width=8)
    assert np.allclose(scores(stages["propagated"]), scores(stages["rotated"]), atol=1e-4)
    assert not np.allclose(scores(stages["propagated"], 2), scores(stages["rotated"], 2), atol=1e-3)


@pytest.mark.parametrize("nested_sweeps", [0, 1])
def test_the_last_stage_is_the_model_that_is_served_or_trained(positives, nested_sweeps) -> None:
    config = train_config(**CHOSEN | {"nested_sweeps": nested_sweeps})
    model = initial_model(config, positives, fit_least_squares(config, positives))
    assert np.allclose(scores(refit(positives, nested_sweeps=nested_sweeps)["rotated"]), scores(model.vectors()))


def test_a_step_that_was_not_chosen_changes_nothing(positives) -> None:
    stages = refit(positives, **NOTHING)
    assert all(np.array_equal(scores(stages["ials"]), scores(each)) for each in stages.values())


@pytest.mark.parametrize(("setting", "stage"), zip(NOTHING, ("nested", "propagated", "rotated"), strict=True))
def test_stages_that_the_settings_do_not_take_are_known(positives, setting, stage) -> None:
    assert used_stages(train_config(**CHOSEN)) == list(STAGES)[:-1]
    config = train_config(**CHOSEN | {setting: NOTHING[setting]})
    used, stages = used_stages(config), dict(refit_stages(config, positives))
    assert stage not in used and len(used) == 3
    before = list(stages)[list(stages).index(stage) - 1]
    assert np.array_equal(scores(stages[before]), scores(stages[stage]))
