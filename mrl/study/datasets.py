"""The data sets of a study by name, and what of some of them is to be said beyond their names."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache, lru_cache
from typing import Any

from mrl.config import TrainConfig
from mrl.controls.fitting import K
from mrl.data import Interactions, check_held_out, load_data, resolve_dataset
from mrl.data.datasets import dataset_stamp
from mrl.errors import DataError

_PLANTED = {"num_users": 4000, "num_items": 4096, "interactions": 100_000, "noise": 0.1}
# Settings of TrainConfig, written down before anything was run on them. planted-flat: 128 groups of items, all alike,
# each with users of its own, so that 128 axes carry about as much each. planted-steep: every split in two tells half of
# what the one above it does, and few items have most of the interactions, so that each axis carries less than the one
# before. Singular values 1, 2, 4, … 128 of train: 25 22 21 20 19 18 17 13 and 101 77 31 25 22 18 14 10.
DATASETS: dict[str, dict[str, Any]] = {
    **{name: {} for name in ("ml100k", "phone", "tool", "ml-100k", "planted", "gowalla")},
    "completejourney": {"core": 10},
    "planted-flat": {"dataset": "planted", "planted": _PLANTED | {"branching": [128], "popularity": 0.0}},
    "planted-steep": {
        "dataset": "planted",
        "planted": _PLANTED | {"branching": [2] * 6, "popularity": 1.2, "loyalty": [32, 16, 8, 4, 2, 1]},
    },
}


def describe_options(dataset: str) -> str:
    """The settings of a data set of DATASETS, in a sentence."""
    options = {"dataset": dataset} | DATASETS[dataset]
    name, settings = options.pop("dataset"), options.pop("planted", {}) | options
    return f"{dataset}: {name} with {', '.join(f'{setting} {value}' for setting, value in settings.items())}."


def load_split(dataset: str, seed: int, planted: Mapping[str, Any]) -> Interactions:
    """A data set with its validation part, drawn by `seed`. planted: settings of the data set of that name.

    Raises DataError for one that is too small.
    """
    return _load(*_place(dataset, seed, planted))


def split_facts(dataset: str, seed: int, planted: Mapping[str, Any]) -> tuple[str, int, int]:
    """Its fingerprint, its smaller side and its training interactions, remembered where the data are not."""
    return _facts(*_place(dataset, seed, planted))


def _place(dataset: str, seed: int, planted: Mapping[str, Any]) -> tuple[str, tuple]:
    """The settings of the data, and what changes with the files, so that changed ones are loaded again."""
    options = DATASETS.get(dataset) or ({"planted": dict(planted)} if dataset == "planted" else {})
    options = {"dataset": resolve_dataset(dataset), "seed": seed} | options
    return json.dumps(options), dataset_stamp(options["dataset"])


@lru_cache(maxsize=2)
def _load(options: str, stamp: tuple) -> Interactions:
    data = load_data(TrainConfig(**json.loads(options)))
    if data.num_items < K:
        raise DataError(f"{data.name}: {data.num_items} items, where the study ranks lists of {K}")
    check_held_out(data, "auto", "honest")
    return data


@cache
def _facts(options: str, stamp: tuple) -> tuple[str, int, int]:
    data = _load(options, stamp)
    return data.fingerprint, min(data.num_users, data.num_items), len(data.train)
