"""Vectors without validation: those that the epoch was chosen on; refused where nothing is to choose on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from settings import GIVEN, one_validation_split, train_config

from mrl import fit, load_data
from mrl.cascade.heldout import has_seen, vectors_without_validation
from mrl.data import Positives
from mrl.errors import ConfigError, RunError
from mrl.evaluation import evaluate

PLANTED = {"num_users": 200, "num_items": 60, "interactions": 4000, "branching": [3, 4], "noise": 0.05}
WIDTHS = (2, 4, 8)


def made(path, **changes):
    settings = {"dataset": "planted", "planted": PLANTED, "widths": WIDTHS, "device": "cpu", "run_dir": str(path)}
    config = train_config(**settings | changes)
    data = load_data(config)
    with one_validation_split():
        return fit(config, data, progress=False), data


@pytest.mark.parametrize(
    "changes",
    [GIVEN | {"recipe": "least_squares"}, GIVEN | {"epochs": 3}, {"recipe": "mrl4rec", "epochs": 3, "backbone": "mf"}],
    ids=["least_squares", "default", "mrl4rec"],
)
def test_they_give_the_validation_that_the_run_wrote(changes, tmp_path) -> None:
    run, data = made(tmp_path, **changes)
    assert has_seen(run, data.valid) and not has_seen(run, data.test)
    users, items = vectors_without_validation(run, data)
    assert not torch.equal(users, run.users)
    measured = evaluate(users, items, data, split="valid", widths=WIDTHS, ks=(20,))
    written = {(row["width"], row["metric"]): row["value"] for row in run.metrics.iter_rows(named=True)
               if row["split"] == "valid" and row["k"] == 20}  # fmt: skip
    found = {(row["width"], row["metric"]): row["value"] for row in measured.table.iter_rows(named=True)}
    assert found == pytest.approx(written, rel=1e-9)


def test_vectors_that_have_not_seen_it_are_taken_as_they_are(tmp_path) -> None:
    run, data = made(tmp_path, **GIVEN, recipe="least_squares")
    users, items = vectors_without_validation(replace(run, seen=data.train), data)
    assert torch.equal(users, run.users) and torch.equal(items, run.items)


def test_what_cannot_be_chosen_on_is_refused(tmp_path) -> None:
    run, data = made(tmp_path, **GIVEN, recipe="least_squares")
    with pytest.raises(ConfigError, match=r"validation is the test set .*metric='overlap'"):
        vectors_without_validation(run, replace(data, valid=data.test))
    with pytest.raises(ConfigError, match="no validation part; choose by metric='overlap'"):
        vectors_without_validation(run, data.merge_valid())
    with pytest.raises(RunError, match=r"no seen\.safetensors.*train again"):
        vectors_without_validation(replace(run, seen=None), data)
    with pytest.raises(ConfigError, match="made by no recipe"):
        vectors_without_validation(replace(run, config=run.config | {"control": "bpr"}), data)


def test_one_pair_is_enough_to_have_seen_it(tmp_path) -> None:
    run, data = made(tmp_path, **GIVEN, recipe="least_squares")
    user = int(data.valid.users[0])
    pair = np.array([user]), data.valid.items[:1].numpy()
    one = Positives.from_pairs(*pair, data.num_users, data.num_items)
    assert has_seen(replace(run, seen=one), data.valid) and not has_seen(replace(run, seen=one), data.test)
