"""The term in training: what it is, that items feel it, and that a training goes on where it was."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from settings import GIVEN, train_config

from mrl import ConfigError, fit
from mrl.data import load_data
from mrl.least_squares import fit_least_squares, initial_model
from mrl.prototypes import PrototypeTerm, fit_prototypes, term
from mrl.train import _Training
from mrl.trainer import Trainer

SMALL = {
    "dataset": "planted", "planted": {"num_users": 240, "num_items": 120, "interactions": 5000, "branching": (3, 3)},
    "widths": (2, 4, 8), "device": "cpu", "batch_size": 512, "learning_rate": 0.02, "eval_every": 1,
}  # fmt: skip
RECIPES = {
    "mrl4rec": {"recipe": "mrl4rec", "epochs": 3},
    "lightgcn": {"recipe": "mrl4rec", "backbone": "lightgcn", "edge_dropout": 0.2, "epochs": 3},
    "mix": {"recipe": "mrl4rec", "backbone": "lightgcn", "rule": "mix", "epochs": 3},
    "default": {**GIVEN, "epochs": 3},
}


@pytest.fixture(autouse=True)
def one_thread():
    """Steps by `mix` are the same bits only where one thread adds them up."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


each_recipe = pytest.mark.parametrize("recipe", RECIPES)


def trainer(recipe: str, **settings) -> Trainer:
    config = train_config(**SMALL | RECIPES[recipe] | settings)
    positives = load_data(config).train
    model = None
    if recipe == "default":
        usual = config.with_usual()
        model = initial_model(usual, positives, fit_least_squares(usual, positives))
    return Trainer(config, positives, torch.device("cpu"), model)


def items_after(recipe: str, epochs: int = 2, **settings) -> np.ndarray:
    made = trainer(recipe, **settings)
    for _ in range(epochs):
        made.run_epoch()
    return made.vectors()[1].numpy()


@each_recipe
def test_items_are_drawn_to_their_prototypes_and_off_is_off(recipe):
    plain, zero, drawn = (items_after(recipe, **each) for each in ({}, {"prototypes": 0.0}, {"prototypes": 3.0}))
    np.testing.assert_array_equal(plain, zero)
    losses = [fit_prototypes(items, (2, 4, 8), per_dimension=1, steps=60).losses.sum() for items in (plain, drawn)]
    assert losses[1] < losses[0]


def test_the_compiled_step_is_not_taken_where_it_cannot_have_the_term():
    assert trainer("mrl4rec").compiled and not trainer("mrl4rec", prototypes=0.1).compiled


def test_the_term_is_the_weighted_loss_of_known_items_and_an_average(monkeypatch):
    positives = load_data(train_config(**SMALL, recipe="mrl4rec")).train
    start = torch.randn(120, 8, generator=torch.Generator().manual_seed(0))
    options = {"per_dimension": 1.0, "popularity": 0.5, "seed": 5}
    made = PrototypeTerm(positives, (2, 4, 8), start, weight=0.5, **options)
    items = (start + 0.3).requires_grad_()
    average = 0.992 * start + 0.008 * items.detach()
    value = made(items, progress=0.0)
    weights = positives.item_counts.float() ** 0.5
    expected = 0.5 * made.loss(items, average, weights, 0.0)[0]
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    assert torch.allclose(made.average, average[None])
    assert [len(table) for table in made.loss.tables] == [2, 4, 8]
    monkeypatch.setattr(term, "ITEMS", 30)
    made(items, progress=0.0, generator=torch.Generator().manual_seed(1)).backward()
    full = PrototypeTerm(positives, (2, 4, 8), start, weight=0.5, **options)
    assert len(full.loss.tables[2]) == 8 and (items.grad.abs().sum(1) > 0).sum() == 30


def test_each_view_has_the_average_of_the_other_as_its_teacher():
    positives = load_data(train_config(**SMALL, recipe="mrl4rec")).train
    draw = torch.Generator().manual_seed(0)
    start, first, second = (torch.randn(120, 8, generator=draw) for _ in range(3))
    options = {"per_dimension": 1.0, "popularity": 0.0, "views": True, "seed": 5}
    made = PrototypeTerm(positives, (2, 4, 8), start, weight=2.0, **options)
    made.start(first, second)
    assert torch.equal(made.average, torch.stack([first, second]))
    both = first.requires_grad_(), second.requires_grad_()
    value = made(*both, progress=0.0)
    expected = made.loss(first, second.detach())[0] + made.loss(second, first.detach())[0]  # 2 · mean
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    value.backward()
    assert all((view.grad.abs().sum(1) > 0).all() for view in both)


@pytest.mark.parametrize("recipe", ["lightgcn", "default"])
def test_a_view_is_the_item_with_one_half_of_its_users_for_the_other(recipe):
    made = trainer(recipe, prototypes=0.3, prototypes_views=True)
    made.run_epoch()
    made.model.eval()
    users, items = (side.detach() for side in made.model())
    first, second = (view.detach() for view in made._item_views(users, items))
    signs, item = made.prototypes.signs, 7
    assert set(signs.tolist()) == {-1.0, 1.0} and torch.allclose((first + second) / 2, items, atol=1e-5)
    share, lean = made.model.item_share if recipe == "default" else 1.0, torch.zeros(8)
    positives = load_data(train_config(**SMALL)).train
    for user in positives.users[positives.items == item].long().tolist():
        weight = (positives.counts[user] * positives.item_counts[item]).float().rsqrt()
        lean += share * signs[user] * weight * users[user]
    assert torch.allclose(first[item], items[item] + lean, atol=1e-5) and lean.norm() > 0


def test_views_draw_halves_together():
    def apart(**settings) -> float:
        made = trainer("default", prototypes=3.0, learning_rate=0.02, **settings)
        for _ in range(3):
            made.run_epoch()
        made.model.eval()
        users, items = (side.detach() for side in made.model())
        lean = made.model.item_lean(users, made.prototypes.signs if settings else signs)
        return float(torch.nn.functional.cosine_similarity(items + lean, items - lean).mean())

    signs = trainer("default", prototypes=3.0, prototypes_views=True).prototypes.signs
    assert apart(prototypes_views=True) > apart()


@pytest.mark.parametrize("settings", [{"recipe": "mrl4rec"}, {"backbone": "lightgcn", "hops": 0}])
def test_views_need_users_in_the_items(settings):
    with pytest.raises(ConfigError, match=r"^prototypes_views=True: items pick up no users here; give backbone="):
        train_config(prototypes_views=True, **settings)


@pytest.mark.parametrize(("recipe", "views"), [*((name, False) for name in RECIPES), ("default", True)])
def test_a_training_that_stopped_goes_on_as_if_it_had_not(recipe, views):
    whole, first, second = (trainer(recipe, prototypes=0.3, prototypes_views=views) for _ in range(3))
    for _ in range(3):
        whole.run_epoch()
    first.run_epoch()
    saved = {name: tensor.clone() for name, tensor in first.state().items()}
    assert {"prototypes.average", "prototypes.0", "parameter.prototypes.loss.tables.2"} <= saved.keys()
    second.load_state(saved)
    for _ in range(2):
        second.run_epoch()
    for name, tensor in whole.state().items():
        assert torch.equal(tensor, second.state()[name]), name


def test_a_run_that_was_killed_is_resumed_and_keeps_its_tables(tmp_path, monkeypatch):
    settings = SMALL | RECIPES["mrl4rec"] | {"prototypes": 0.3, "prototypes_per_dimension": 2}
    whole = fit(train_config(**settings, run_dir=str(tmp_path / "whole")), progress=False)
    config, save, saves = train_config(**settings, run_dir=str(tmp_path / "killed")), _Training._save, []

    def die(self, made):
        save(self, made)
        saves.append(made.epoch)
        if len(saves) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(_Training, "_save", die)
        with pytest.raises(KeyboardInterrupt):
            fit(config, progress=False)
    resumed = fit(config, progress=False)
    assert torch.equal(resumed.items, whole.items)
    assert [tuple(resumed.backbone[f"prototypes.{level}"].shape) for level in range(3)] == [(4, 2), (8, 4), (16, 8)]


def test_least_squares_has_no_training_to_put_it_in():
    with pytest.raises(ConfigError, match=r"^prototypes=0.1: recipe='least_squares' has none; recipe='default' has$"):
        train_config(recipe="least_squares", prototypes=0.1)
    with pytest.raises(ConfigError, match=r"nested_loss\.prototypes=-1"):
        train_config(prototypes=-1)
