"""A study that was never run: figures that are given, kept as `mrl.study.folder` keeps them."""

from __future__ import annotations

from collections.abc import Sequence
from zlib import crc32

import numpy as np
import polars as pl
import pytest

from mrl.study import models as contenders
from mrl.study.config import StudyConfig
from mrl.study.folder import write_json
from mrl.study.models import Contender

WIDTHS = (2, 4)
USERS = 60


def pretend(monkeypatch: pytest.MonkeyPatch, folder: object) -> StudyConfig:
    """Five models: `best` and `second` of ours, `wide` and `narrow` controls in parts, `flat` without a width."""

    def model(name: str, role: str, widths: Sequence[int], **more: object) -> Contender:
        return Contender(name, role, contenders.fit_popularity, tuple(widths), (), **more)

    found = [
        model("wide", "control", WIDTHS),
        model("parts-2", "control", (2,), row="parts"),
        model("parts-4", "control", (4,), row="parts"),
        model("flat", "control", (), deterministic=True, trials=1),
        model("best", "ours", WIDTHS, trials=0),
        model("second", "ours", WIDTHS),
    ]
    monkeypatch.setattr(contenders, "contenders", lambda widths: found)
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
) -> dict:
    """Keep figures of a model: by width, around a mean. Returns the recall of every user, by width and seed.

    spent: seconds of its search, for which there were 60.
    """
    (at,) = (each for each in config.entries(chosen=False) if each.contender.name == name)
    trial = {"number": 0, "settings": {"l2": 0.125}, "found": {"epochs": 3}, "value": 0.5, "seconds": spent}
    trial |= {"cut": False, "error": None, "granted": 4, "budget": 60.0, "epochs": 300, "patience": 10}
    if at.contender.trials != 0:
        write_json(at.path / "search.json", {"trials": [trial]})
    people = {}
    for seed in seeds:
        rng = np.random.default_rng([seed, crc32(name.encode())])
        columns, figures = {"user": np.arange(USERS, dtype=np.int32)}, []
        for width, mean in means.items():
            value = mean + 0.05 * rng.standard_normal(USERS)
            people[width, seed] = value
            for metric, scale in (("recall", 1.0), ("ndcg", 0.5)):
                columns[f"{metric}@20" + ("" if width is None else f"_w{width}")] = scale * value
                figure = {"width": width, "metric": metric, "k": 20, "value": float(scale * value.mean())}
                figures.append(figure)
        path = at.result_path(seed, at.best())
        write_json(path, {"seed": seed, "seconds": 1.0 + seed, "threads": 1, "device": "cpu", "figures": figures})
        pl.DataFrame(columns).write_parquet(path.with_suffix(".parquet"))
    return people
