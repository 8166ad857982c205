"""Whole fits beside ALS: what is fitted, of what, what is measured of it, and what is left out."""

from __future__ import annotations

import polars as pl
import pytest
import torch
from settings import GIVEN
from torch import Tensor

from mrl.benchmark import fits
from mrl.benchmark.fits import DEFAULTS, GRID, load_fit_datasets, measure_fits
from mrl.benchmark.measure import BenchmarkConfig
from mrl.data import Interactions, Positives
from mrl.errors import ConfigError, DataError
from mrl.evaluation import evaluate
from mrl.train import fit

SMALL = {"num_users": 60, "num_items": 64, "interactions": 1500}
CONFIG = BenchmarkConfig(widths=(2, 8), threads=(1,), gpu=False, repeats=2, planted=SMALL, fit_datasets=("planted",))
LEFT_OUT = "fits by ALS: implicit is not installed; pip install 'mrl[bench]'"


@pytest.fixture(scope="module")
def data() -> Interactions:
    datasets, _ = load_fit_datasets(CONFIG)
    return datasets["planted"]


@pytest.fixture(autouse=True)
def quick(monkeypatch) -> None:
    """Fits without a search."""
    given = GIVEN | {"search": "none", "epochs": 0}
    monkeypatch.setattr(fits, "fit", lambda config, *data, **rest: fit(config.with_settings(**given), *data, **rest))


def vectors(positives: Positives, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(rows, 8, generator=generator) for rows in (positives.num_users, positives.num_items))


def test_all_are_fitted_in_turn_on_the_same_interactions_and_evaluated_alike(data, monkeypatch) -> None:
    seen: list[tuple[Positives, tuple[float, float]]] = []

    def stand_in(config: BenchmarkConfig, positives: Positives, *settings: float) -> tuple[Tensor, Tensor]:
        seen.append((positives, settings))
        return vectors(positives, seed=GRID.index(settings))

    monkeypatch.setattr(fits, "has_implicit", lambda: True)
    monkeypatch.setattr(fits, "_als", stand_in)
    threads = torch.get_num_threads()
    table = measure_fits(CONFIG, {"planted": data})
    assert torch.get_num_threads() == threads
    models = ["default", "least_squares", "ALS", "ALS, searched"]
    assert table["model"].to_list() == 2 * models and table["repeat"].to_list() == 4 * [0] + 4 * [1]
    assert table["code"].to_list() == 2 * ["mrl", "mrl", "implicit", "implicit"]
    assert set(table["threads"]) == {1} and (table["seconds"] > 0).all()
    whole = data.merge_valid().train
    assert set(table["interactions"]) == {len(whole)}

    each = len(seen) // 3  # of the first on other data, to compile, and of two repeats
    parts, settings = zip(*seen[-each:], strict=True)

    def ndcg(index: int, split: str) -> float:
        return evaluate(*vectors(whole, index), data, split=split, widths=(8,)).value("ndcg@20")

    best = max(range(len(GRID)), key=lambda index: ndcg(index, "valid"))
    assert settings == (DEFAULTS, *GRID, GRID[best])
    assert [part == whole for part in parts] == [True, *(False for _ in GRID), True]
    assert [part == data.train for part in parts[1:-1]] == [True for _ in GRID]
    for model, index in (("ALS", GRID.index(DEFAULTS)), ("ALS, searched", best)):
        expected = ndcg(index, "test")
        assert table.filter(model=model).select("ndcg@20_w2", "ndcg@20_w8").rows() == 2 * [(None, expected)]
    assert (table.filter(code="mrl").select("ndcg@20_w2", "ndcg@20_w8").to_numpy() > 0.2).all()


def test_implicit_is_asked_for_what_is_said_and_solves_it(data) -> None:
    pytest.importorskip("implicit")
    positives, alpha, regularization = data.merge_valid().train, 10.0, 2.0
    users, items = fits._als(CONFIG, positives, alpha, regularization)
    assert users.shape == (data.num_users, 8) and items.shape == (data.num_items, 8)
    assert users.dtype == items.dtype == torch.float32
    # items were solved last: weight alpha of positives, 1 of all others
    met = torch.zeros(len(users), len(items)).index_put_(
        (positives.users.long(), positives.items.long()), torch.ones(())
    )
    for item, vector in enumerate(items):
        weights = 1 + (alpha - 1) * met[:, item]
        normal = users.T @ (weights[:, None] * users) + regularization * torch.eye(8)
        expected = torch.linalg.solve(normal, users.T @ (alpha * met[:, item]))
        torch.testing.assert_close(vector, expected, rtol=0.02, atol=0.02 * expected.norm().item())


def test_without_implicit_the_recipes_are_measured_alone(data, monkeypatch) -> None:
    monkeypatch.setattr(fits.importlib.util, "find_spec", lambda name: None)
    assert load_fit_datasets(CONFIG)[1] == [LEFT_OUT]
    monkeypatch.undo()
    monkeypatch.setattr(fits, "has_implicit", lambda: False)
    monkeypatch.setattr(fits, "_fit_recipe", lambda recipe, config, name, data: (1.0, *vectors(data.train, 0)))
    assert measure_fits(CONFIG, {"planted": data})["model"].to_list() == 2 * ["default", "least_squares"]


def test_data_that_cannot_be_had_are_left_out_in_one_line(data, monkeypatch) -> None:
    def load(config) -> Interactions:
        if config.dataset == "phone":
            raise DataError("phone: no network")
        return data

    monkeypatch.setattr(fits, "load_data", load)
    monkeypatch.setattr(fits, "has_implicit", lambda: True)
    datasets, left_out = load_fit_datasets(BenchmarkConfig(fit_datasets=("ml-100k", "phone")))
    assert list(datasets) == ["ml-100k"] and left_out == ["fits of phone: phone: no network"]


def test_nothing_is_fitted_where_no_data_are_asked_for_and_a_misspelt_name_is_refused() -> None:
    nothing = BenchmarkConfig(fit_datasets=())
    assert load_fit_datasets(nothing) == ({}, [])
    assert measure_fits(nothing, {}).equals(pl.DataFrame())
    with pytest.raises(ConfigError, match="fone"):
        load_fit_datasets(BenchmarkConfig(fit_datasets=("fone",)))
