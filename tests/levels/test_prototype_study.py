"""The study: runs of every set of widths, trained once; what the term does, on validation, test untouched."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from settings import GIVEN, train_config

from mrl.data import Positives, load_data
from mrl.levels import measure_term, prototype_study, study_clusterings

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


@pytest.mark.parametrize("recipe", ["mrl4rec", "default"])
def test_the_term_is_measured_on_validation_alone(recipe):
    settings = SMALL | {"recipe": recipe, "epochs": 2, "prototypes": 0.5, "prototypes_per_dimension": 2}
    settings |= {"eval_every": 1} | (GIVEN if recipe == "default" else {})
    config = train_config(**settings)
    data = load_data(config)
    table = measure_term(config, data)
    trained = table.filter(method=f"{recipe}, λ=0.5")
    assert trained["width"].to_list() == [2, 4, 8] * 2 and trained["epoch"].is_between(1, 2).all()
    assert (set(table["epoch"]) >= {0}) == (recipe == "default")
    other = Positives.from_pairs(np.arange(100), np.arange(100), data.num_users, data.num_items)
    assert measure_term(config, replace(data, test=other)).equals(table)
