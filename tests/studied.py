"""A study that was never run: numbers that are given, kept as `mrl.study.folder` keeps them."""

from __future__ import annotations

from collections.abc import Sequence
from zlib import crc32

import numpy as np
import polars as pl
import pytest

from mrl.controls import fitting
from mrl.study import models as study_models
from mrl.study.config import StudyConfig
from mrl.study.folder import write_json
from mrl.study.models import StudyModel

WIDTHS = (2, 4)
USERS = 60


def pretend(monkeypatch: pytest.MonkeyPatch, folder: object) -> StudyConfig:
    """Five models: recipes `best` and `second`, `wide` and `narrow` controls in parts, `flat` without a width."""

    def model(name: str, role: str, widths: Sequence[int], **more: object) -> StudyModel:
        return StudyModel(name, role, fitting.fit_popularity, tuple(widths), (), **more)

    models = [
        model("wide", "control", WIDTHS),
        model("parts-2", "control", (2,), row="parts"),
        model("parts-4", "control", (4,), row="parts"),
        model("flat", "control", (), deterministic=True, max_trials=1),
        model("best", "recipe", WIDTHS, max_trials=1),
        model("second", "recipe", WIDTHS),
    ]
    monkeypatch.setattr(study_models, "study_models", lambda widths: models)
    small = {"num_users": 60, "num_items": 64, "interactions": 1200}
    return StudyConfig(
        datasets=("planted",), planted=small, widths=WIDTHS, seeds=(0, 1, 2), resamples=400, folder=str(folder),
        report=f"{folder}/report/study",
    )  # fmt: skip


def keep(
    config: StudyConfig,
    name: str,
    means: dict[int | None, float],
    *,
    seeds: Sequence[int] = (0, 1, 2),
    spent: float = 2.0,
    trials: int = 1,
) -> dict:
    """Keep the numbers of a model: by width, around a mean. Returns the recall of every user, by width and seed.

    spent: seconds of its search, for which there were 60. trials: of four.
    """
    (experiment,) = (each for each in config.experiments(all_models=True) if each.model.name == name)
    trial = {"number": 0, "settings": {"l2": 0.125}, "refit_settings": {"epochs": 3}, "value": 0.5, "seconds": spent}
    trial |= {"timed_out": False, "error": None, "max_trials": 4, "max_seconds": 60.0, "epochs": 300, "patience": 10}
    search = [trial | {"number": number, "seconds": spent / trials} for number in range(trials)]
    write_json(experiment.path / "search.json", {"trials": search})
    people = {}
    for seed in seeds:
        rng = np.random.default_rng([seed, crc32(name.encode())])
        columns, metrics = {"user": np.arange(USERS, dtype=np.int32)}, []
        for width, mean in means.items():
            value = mean + 0.05 * rng.standard_normal(USERS)
            people[width, seed] = value
            for metric, scale in (("recall", 1.0), ("ndcg", 0.5)):
                columns[f"{metric}@20" + ("" if width is None else f"_w{width}")] = scale * value
                metrics.append({"width": width, "metric": metric, "k": 20, "value": float(scale * value.mean())})
        path = experiment.result_path(seed, experiment.best_settings())
        write_json(path, {"seed": seed, "seconds": 1.0 + seed, "threads": 1, "device": "cpu", "metrics": metrics})
        pl.DataFrame(columns).write_parquet(path.with_suffix(".parquet"))
    return people
