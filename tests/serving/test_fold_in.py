"""New users and items: as good as if they had been trained, at every width, and refused where ids do not fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from settings import one_validation_split, train_config

from mrl import fit, load_data
from mrl.config import flat, in_sections
from mrl.data.interactions import Interactions, Positives
from mrl.errors import ConfigError, DataError, RunError
from mrl.runs.run import Run
from mrl.serving.fold_in import fold_in_items, fold_in_users

PLANTED = {"num_users": 300, "num_items": 60, "interactions": 6000, "branching": [3, 4], "noise": 0.05}
WIDTHS = (2, 4, 8)


@pytest.fixture(scope="module")
def data() -> Interactions:
    return load_data(train_config(dataset="planted", planted=PLANTED, widths=WIDTHS))


def run_of(data: Interactions, path: Path, **changes) -> Run:
    settings = {"dataset": "planted", "planted": PLANTED, "widths": WIDTHS, "trials": 3, "device": "cpu"}
    with one_validation_split():
        return fit(train_config(**settings | {"epochs": 2, "run_dir": str(path)} | changes), data, progress=False)


@pytest.fixture(scope="module")
def run(data, tmp_path_factory) -> Run:
    """Trained without the last 60 users."""
    shorter = {}
    for split in ("train", "valid", "test"):
        part = data.split(split)
        offsets = part.offsets[:241]
        shorter[split] = Positives(offsets, part.items[: offsets[-1]], part.num_items)
    return run_of(replace(data, user_ids=data.user_ids[:240], **shorter), tmp_path_factory.mktemp("without") / "run")


def log_of(data: Interactions, users: range) -> pl.DataFrame:
    known = data.merge_valid().train
    keep = (known.users >= users.start) & (known.users < users.stop)
    rows, items = known.users[keep].numpy(), known.items[keep].numpy()
    return pl.DataFrame({"user": data.user_ids[rows], "item": data.item_ids[items]})


def recall(run: Run, data: Interactions, users: range, width: int) -> float:
    given = [user for user in users if len(data.test.of(user))]
    lists = run.recommend(data.user_ids[given].tolist(), k=20, width=width)
    hits = []
    for user in given:
        wanted = set(data.item_ids[data.test.of(user).numpy()].tolist())
        found = lists.filter(user=data.user_ids[user].item())["item"].to_list()
        hits.append(len(wanted & set(found)) / len(wanted))
    return float(np.mean(hits))


def test_users_folded_in_are_served_like_users_trained_on(run, data) -> None:
    later = fold_in_users(run, log_of(data, range(240, 300)))
    assert later.users.shape == (300, 8) and torch.equal(later.users[:240], run.users)
    for width in WIDTHS:
        before, after = recall(run, data, range(240), width), recall(later, data, range(240, 300), width)
        assert after > 0.85 * before, width
    chance = 20 / data.num_items
    assert recall(later, data, range(240, 300), 8) > 1.3 * chance
    bought = set(log_of(data, range(240, 241))["item"].to_list())
    assert not bought & set(later.recommend(data.user_ids[240].item(), k=20)["item"].to_list())


def test_they_are_penalised_as_the_run_was(run, data) -> None:
    """More where wide: with a penalty that grows, the wide columns of a new user shrink and the narrow ones do not."""
    wide = replace(run, config=run.config | {"widths": [16, 32]}, weights=dict(run.weights))
    for side, rows in (("users", 240), ("items", data.num_items)):
        wide.weights[side] = 0.2 * torch.randn(rows, 32, generator=torch.Generator().manual_seed(rows))
    norms = []
    for l2_width_exponent in (0.0, 8.0):
        found = replace(
            wide, environment={"chosen": run.environment["chosen"] | {"l2_width_exponent": l2_width_exponent}}
        )
        vectors = fold_in_users(found, log_of(data, range(240, 300))).users[240:]
        norms.append((vectors[:, :16].norm(), vectors[:, 16:].norm()))
    assert norms[1][0] > 0.9 * norms[0][0] and norms[1][1] < 0.8 * norms[0][1]


@pytest.mark.parametrize(("name", "usual", "other"), [("nu", 1.0, 0.5), ("level_weights", [], [0.1, 0.2, 0.7])])
def test_new_users_are_fitted_by_what_was_chosen(run, data, name: str, usual, other) -> None:
    log = log_of(data, range(240, 300))
    others = {setting: value for setting, value in run.environment["chosen"].items() if setting != name}

    def folded(chosen: dict, **given) -> torch.Tensor:
        made = replace(run, environment={"chosen": others | chosen}, config=in_sections(given, run.config))
        return fold_in_users(made, log).users[240:]

    assert not flat(run.config)[name]
    assert torch.equal(folded({name: other}), folded({}, **{name: other}))  # given, where runs did not choose it
    assert torch.equal(folded({name: usual}), folded({}))
    assert not torch.allclose(folded({name: other}), folded({name: usual}))


def test_they_are_fitted_to_the_axes_that_were_rotated_as_a_whole(run, data) -> None:
    log = log_of(data, range(240, 300))

    def folded(rotation_width: int, weights: list[float]) -> torch.Tensor:
        chosen = run.environment["chosen"] | {"rotation_width": rotation_width, "level_weights": weights}
        return fold_in_users(replace(run, environment={"chosen": chosen}), log).users[240:]

    for width, weights in ((8, [0, 0, 1]), (4, [0, 0.5, 0.5])):
        torch.testing.assert_close(folded(width, []), folded(0, weights))
        assert not torch.allclose(folded(width, []), folded(0, []), rtol=1e-2)


def test_items_folded_in_go_to_the_users_of_items_alike(run, data) -> None:
    known = run.seen
    copied = int(known.item_counts.argmax())  # the new item was met by exactly those who met this one
    users = known.users[known.items == copied].numpy()
    later = fold_in_items(run, pl.DataFrame({"user": run.user_ids[users], "item": [10_000] * len(users)}))
    assert later.items.shape == (61, 8) and later.labels.height == 61 and later.item_ids[-1] == 10_000
    for width in WIDTHS:
        one, other = later.items[-1, :width], later.items[copied, :width]
        assert torch.cosine_similarity(one, other, dim=0) > 0.9
        assert 0.8 < one.norm() / other.norm() < 1.25  # else it would win, or lose, everywhere


def test_ids_that_do_not_fit_are_refused_in_one_line(run, data, tmp_path) -> None:
    known = int(run.user_ids[0]), int(run.item_ids[0])
    for log, words in (
        ({"user": [known[0]], "item": [known[1]]}, "is in .* already; give new users only"),
        ({"user": ["a"], "item": [999]}, "item 999 is not in"),
        ({"user": ["a"]}, "no column 'item'; it has user"),
    ):
        with pytest.raises(DataError, match=words):
            fold_in_users(run, pl.DataFrame(log, strict=False))
    with pytest.raises(RunError, match=r"has no seen\.safetensors"):
        fold_in_users(replace(run, seen=None), log_of(data, range(240, 241)))
    published = run_of(data, tmp_path / "published", recipe="mrl4rec", epochs=1)
    log = pl.DataFrame({"user": [1000], "item": [known[1]]})
    with pytest.raises(ConfigError, match="give alpha0 and l2"):
        fold_in_users(published, log)
    assert fold_in_users(published, log, alpha0=0.03, l2=0.003).users.isfinite().all()
