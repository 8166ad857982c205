"""Prototypes of a data set, as it is recorded how they are studied. That the notebook does so: test_notebooks."""

from __future__ import annotations

import polars as pl
import pytest

from mrl.errors import ConfigError
from mrl.levels.prototype_study import TABLE
from mrl.parameters import as_config
from mrl.report import prototypes
from mrl.report.prototypes import PrototypesConfig, TermConfig, measure_prototypes, write_prototypes


def test_every_part_is_measured_with_what_is_recorded(tmp_path, monkeypatch):
    asked, empty = [], pl.DataFrame(schema=TABLE)

    def cluster(config, width_sets, per_dimensions, folder, **options):
        asked.append((config.recipe, config.seed, config.core, config.least_squares.alpha0, len(width_sets)))
        asked[-1] += tuple(options.get(name) for name in ("views", "seeds", "methods"))
        assert folder == tmp_path
        return empty

    def train(config, weights, seeds):
        asked.append((config.recipe, weights, seeds, config.core, config.epochs, config.early_stopping.patience))
        return empty

    monkeypatch.setattr(prototypes, "study_clusterings", cluster)
    monkeypatch.setattr(prototypes, "summarise_clusterings", lambda table, part: table)
    monkeypatch.setattr(prototypes, "study_term", train)
    recorded = {
        "settings": {"least_squares": {"alpha0": 0.5}}, "views": False, "width_sets": [[2, 4], [4]],
        "per_dimensions": [1], "trainings": [{"weights": [0, 1]}, {"weights": [2], "settings": {"epochs": 3}}],
    }  # fmt: skip
    given = {"dataset": "planted", "core": 2, "least_squares": {"alpha0": 0.1}}
    measure_prototypes(as_config(PrototypesConfig, recorded), given, [4, 5], tmp_path)
    assert asked == [
        ("least_squares", 4, 2, 0.5, 2, None, None, ("prototypes", "prototypes_tree")),
        ("least_squares", 4, 2, 0.5, 1, False, (0, 1), None),
        ("least_squares", 5, 2, 0.5, 1, False, (0, 1), None),
        ("default", (0.0, 1.0), [4, 5], 2, 20, 3),
        ("default", (2.0,), [4, 5], 2, 3, 3),
    ]


def test_a_training_without_any_weight_is_refused():
    with pytest.raises(ConfigError, match=r"weights=\[0.0\]: none is above 0, so there is no term to measure$"):
        as_config(TermConfig, {"weights": [0]})


def test_rows_of_other_data_sets_stay(tmp_path):
    for dataset, value in (("b", 1.0), ("a", 2.0), ("b", 3.0)):
        row = pl.DataFrame([{"dataset": dataset, "part": "training", "value": value}], schema=TABLE)
        write_prototypes(row, tmp_path / "prototypes.csv")
    found = pl.read_csv(tmp_path / "prototypes.csv", schema=TABLE)
    assert found.select("dataset", "value").rows() == [("a", 2.0), ("b", 3.0)]
