"""The study: runs of every set of widths, trained once; what the term does, on validation, test untouched."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from settings import GIVEN, train_config

from mrl import fit
from mrl.data import Positives, load_data
from mrl.errors import ConfigError
from mrl.levels import measure_term, prototype_study, study_clusterings, study_term, summarise_clusterings
from mrl.levels.prototype_study import TABLE, best_weight, refit_term

SMALL = {
    "dataset": "planted", "planted": {"num_users": 240, "num_items": 120, "interactions": 5000, "branching": (3, 3)},
    "widths": (2, 4, 8), "device": "cpu", "batch_size": 512,
}  # fmt: skip


def test_every_set_of_widths_and_number_is_measured_on_runs_that_are_trained_once(tmp_path, monkeypatch):
    config = train_config(**SMALL, recipe="least_squares", **GIVEN)
    fitted, fit = [], prototype_study.fit
    monkeypatch.setattr(prototype_study, "fit", lambda *args, **kwargs: fitted.append(1) or fit(*args, **kwargs))
    options = {"methods": ("prototypes", "prototypes_tree"), "views": True, "seeds": (0,)}
    tables = [study_clusterings(config, sets, [1, 2], tmp_path, **options) for sets in ([(2, 4), (4,)], [(4,)])]
    assert len(fitted) == 2 and tables[1].equals(tables[0].filter(widths="4"))
    keys = tables[0].select("widths", "per_dimension").unique().sort("widths", "per_dimension").rows()
    assert keys == [("2-4", 1.0), ("2-4", 2.0), ("4", 1.0), ("4", 2.0)]
    assert {"depth_1", "depth_2"} <= set(tables[0]["label"]) and tables[0]["value"].is_finite().all()
    study_clusterings(config.with_settings(sweeps=1), [(4,)], [1], tmp_path, methods=("prototypes",), seeds=(0,))
    assert len(fitted) == 3  # other settings


def test_the_summary_is_a_mean_over_the_seeds_of_the_clustering():
    row = {"dataset": "d", "run_seed": 3, "widths": "2-4", "per_dimension": 1.0, "method": "kmeans", "width": 2}
    row |= {"other_width": None, "label": None, "metric": "usage_entropy", "clusters": 2, "chance": None}
    over_seeds = row | {"metric": "stability", "seed": None, "clusters": None, "value": 0.123456, "chance": 0.0}
    table = pl.DataFrame([row | {"seed": 0, "value": 0.5}, row | {"seed": 1, "value": 0.6}, over_seeds])
    found = summarise_clusterings(table, "comparison")
    assert found.schema == pl.Schema(TABLE) and found["seed"].to_list() == [3, 3]
    assert found.select("part", "clusterings", "clusters", "value", "chance").rows() == [
        ("comparison", 2, 2.0, 0.55, None), ("comparison", 0, None, 0.12346, 0.0),
    ]  # fmt: skip


@pytest.mark.parametrize("recipe", ["mrl4rec", "default"])
def test_the_term_is_measured_on_validation_alone(recipe):
    config = small(recipe)
    data = load_data(config)
    table = measure_term(config, [0.0, 0.5], data)
    trained = table.filter(method=f"{recipe}, λ=0.5")
    assert trained["width"].to_list() == [2, 4, 8] * 2 and trained["epoch"].is_between(1, 2).all()
    assert (set(table["epoch"]) >= {0}) == (recipe == "default") and set(table["label"]) == {"valid"}
    other = Positives.from_pairs(np.arange(100), np.arange(100), data.num_users, data.num_items)
    assert measure_term(config, [0.0, 0.5], replace(data, test=other)).equals(table)
    alone = measure_term(config, [0.5], data).filter(method=f"{recipe}, λ=0.5")
    assert alone.equals(trained)  # the training before it has left nothing behind


def test_settings_that_depend_on_the_data_are_to_be_given():
    with pytest.raises(ConfigError, match=r"alpha0, fit_width: have no usual value, .*; give least_squares="):
        measure_term(train_config(**SMALL, recipe="default", epochs=1), [1.0])


def small(recipe: str, **settings):
    settings = SMALL | {"recipe": recipe, "epochs": 2, "prototypes_per_dimension": 2, "eval_every": 1} | settings
    return train_config(**settings | (GIVEN if recipe == "default" else {}))


def test_on_test_it_is_the_run_that_fit_makes(tmp_path):
    config = small("mrl4rec", prototypes=0.5, run_dir=str(tmp_path / "run"))
    run = fit(config, progress=False)
    epochs = run.environment["best_epoch"]
    table = refit_term(config, {0.5: epochs})
    expected = [run.metrics.filter(split="test", metric="ndcg", k=20, width=width)["value"][0] for width in (2, 4, 8)]
    assert table.filter(metric="ndcg@20")["value"].to_list() == pytest.approx(expected, abs=1e-5)
    assert set(table["label"]) == {"test"} and set(table["epoch"]) == {epochs}


def test_the_weight_is_chosen_on_validation_of_the_first_seed_and_only_it_is_tested(monkeypatch):
    config, asked = small("mrl4rec"), []

    def made(label: str):
        def measure(at_seed, weights):
            asked.append((label, at_seed.seed, dict(weights) if label == "test" else list(weights)))
            rows = [
                {"method": f"mrl4rec, λ={weight:g}", "label": label, "metric": "ndcg@20", "width": width, "epoch": 7}
                | {"value": 0.5 - abs(weight - 3) / 10}
                for weight in weights for width in (2, 4)
            ]  # fmt: skip
            return pl.DataFrame(rows)

        return measure

    monkeypatch.setattr(prototype_study, "measure_term", made("valid"))
    monkeypatch.setattr(prototype_study, "refit_term", made("test"))
    study_term(config, [1, 3, 10], [4, 5])
    assert asked == [
        ("valid", 4, [0.0, 1.0, 3.0, 10.0]),
        ("test", 4, {0.0: 7, 3.0: 7}),
        ("test", 5, {0.0: 7, 3.0: 7}),
    ]


def test_the_best_weight_is_that_of_the_mean_over_widths():
    rows = [(0.0, [9, 9]), (1.0, [1, 4]), (3.0, [3, 3])]
    table = pl.DataFrame(
        {"method": f"mrl4rec, λ={weight:g}", "label": "valid", "metric": "ndcg@20", "width": width, "value": value}
        for weight, values in rows for width, value in zip((2, 4), values, strict=True)
    )  # fmt: skip
    assert best_weight(small("mrl4rec"), [0.0, 1.0, 3.0], table) == 3.0
