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
from mrl.serving.fold_in import fold_in_items, fold_in_users, update_users

PLANTED = {"num_users": 300, "num_items": 60, "interactions": 6000, "branching": [3, 4], "noise": 0.05}
WIDTHS = (2, 4, 8)


@pytest.fixture(scope="module")
def data() -> Interactions:
    return load_data(train_config(dataset="planted", planted=PLANTED, widths=WIDTHS))


def run_of(data: Interactions, path: Path, **changes) -> Run:
    settings = {"dataset": "planted", "planted": PLANTED, "widths": WIDTHS, "device": "cpu"}
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

    def lengths(**chosen) -> tuple[torch.Tensor, torch.Tensor]:
        found = replace(wide, environment={"chosen": run.environment["chosen"] | chosen})
        vectors = fold_in_users(found, log_of(data, range(240, 300))).users[240:]
        return vectors[:, :16].norm(), vectors[:, 16:].norm()

    nested = {"rotation": False, "nested_sweeps": 1, "alpha0": 0.03, "frequency_l2": 0.03}
    flat, growing = (lengths(**nested, l2_width_exponent=exponent) for exponent in (0.0, 8.0))
    assert growing[0] > 0.9 * flat[0] and growing[1] < 0.8 * flat[1]
    for plain in ({"rotation": False, "nested_sweeps": 0}, {"rotation": True, "nested_sweeps": 1}):
        # without nested sweeps, or where they were rotated after them, no column is penalised more than another
        assert lengths(**plain, l2_width_exponent=8.0) == lengths(**plain, l2_width_exponent=0.0)


@pytest.mark.parametrize(("name", "usual", "other"), [("nu", 1.0, 0.5), ("level_weights", [], [0.1, 0.2, 0.7])])
def test_new_users_are_fitted_by_what_was_chosen(run, data, name: str, usual, other) -> None:
    log = log_of(data, range(240, 300))
    others = {setting: value for setting, value in run.environment["chosen"].items() if setting != name}
    others |= {"rotation": False}  # then each level is fitted by its weight

    def folded(chosen: dict, **given) -> torch.Tensor:
        made = replace(run, environment={"chosen": others | chosen}, config=in_sections(given, run.config))
        return fold_in_users(made, log).users[240:]

    assert not flat(run.config)[name]
    assert torch.equal(folded({name: other}), folded({}, **{name: other}))  # given, where runs did not choose it
    assert torch.equal(folded({name: usual}), folded({}))
    assert not torch.allclose(folded({name: other}), folded({name: usual}))


def test_they_are_fitted_to_axes_that_were_rotated_as_a_whole(run, data) -> None:
    """Such prefixes rank as the whole does, and are no factors of least squares themselves."""
    log = log_of(data, range(240, 300))

    def folded(rotation: bool, weights: list[float]) -> torch.Tensor:
        chosen = run.environment["chosen"] | {"rotation": rotation, "level_weights": weights, "nested_sweeps": 0}
        return fold_in_users(replace(run, environment={"chosen": chosen}), log).users[240:]

    whole = folded(True, [])
    assert torch.equal(whole, folded(False, [0, 0, 1])) and torch.equal(whole, folded(True, [0.5, 0.3, 0.2]))
    assert not torch.allclose(whole, folded(False, []), rtol=1e-2)
    turned = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(0)))[0]
    other = replace(run, weights=run.weights | {"users": run.users @ turned, "items": run.items @ turned})
    other = replace(other, environment={"chosen": run.environment["chosen"] | {"rotation": True}})
    torch.testing.assert_close(fold_in_users(other, log).users[240:], whole @ turned, atol=1e-4, rtol=1e-3)


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
        ({"user": ["a"]}, "no column item in the log; it has user"),
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


@pytest.mark.robustness
@pytest.mark.parametrize(
    "holds",
    [
        lambda users, items: {"user": users, "item": items},
        lambda users, items: pl.DataFrame({"user": users, "item": items}),
        lambda users, items: list(zip(users, items, strict=True)),
        lambda users, items: [{"user": user, "item": item} for user, item in zip(users, items, strict=True)],
        lambda users, items: {"user": np.array(users, dtype=object), "item": torch.tensor(items)},
        lambda users, items: pytest.importorskip("pandas").DataFrame({"user": users, "item": items}),
        lambda users, items: pytest.importorskip("pyarrow").table({"user": users, "item": [str(raw) for raw in items]}),
    ],
    ids=["columns", "polars", "rows", "dicts", "arrays", "pandas", "arrow"],
)
def test_new_users_may_have_text_ids_beside_numbers(run, data, holds) -> None:
    items = data.item_ids[data.train.of(0).numpy()].tolist()
    later = fold_in_users(run, holds(["a new user"] * len(items), items))
    assert later.user_ids.dtype == object and later.user_ids.tolist() == [*run.user_ids.tolist(), "a new user"]
    one, other = later.recommend(["a new user", 0], k=5), run.recommend(0, k=5)
    assert one["user"].to_list() == ["a new user"] * 5 + ["0"] * 5  # text, where there are both
    assert one["item"].to_list()[5:] == other["item"].to_list() and not set(items) & set(one["item"][:5])
    again = fold_in_users(later, {"user": "7001", "item": items})
    assert again.recommend(7001, k=5)["item"].to_list() == one["item"].to_list()[:5]
    plain = fold_in_users(run, {"user": 7001.0, "item": items})
    assert plain.user_ids.dtype == np.int64 and plain.recommend("7001", k=1)["user"].to_list() == [7001]


@pytest.mark.robustness
def test_new_items_may_have_text_ids_beside_numbers(run) -> None:
    users = run.user_ids[:20]
    later = fold_in_items(run, {"item": "a new item", "user": users})
    assert later.item_ids[-1] == "a new item" and later.item_ids[0] == run.item_ids[0]
    assert set(users.tolist()).isdisjoint(later.recommend(run.user_ids, k=60).filter(item="a new item")["user"])
    assert later.recommend(0, k=3)["item"].dtype == pl.String


@pytest.mark.robustness
@pytest.mark.parametrize(
    ("log", "message"),
    [
        ({"user": ["x", None], "item": [1, 1]}, "log: user id at position 1 of 2 is missing"),
        ({"user": ["x"], "item": [None]}, "log: item id at position 0 of 1 is missing"),
        ({"user": [5000.7], "item": [1]}, r"log: user id 5000\.7 is no whole number"),
        ({"user": [2**63 + 5], "item": [1]}, "9223372036854775813 is past 64 bits"),
        ({"user": [b"x"], "item": [1]}, "log: user id b'x'"),
        ({"user": [True], "item": [1]}, "log: user id True"),
        ({"user": ["x"], "item": [1.5]}, r"log: item id 1\.5 is no whole number"),
        ({"user": ["0"], "item": [1]}, "log: user '0' is in .* already"),
        ({"user": ["x"], "item": ["01"]}, "log: item '01' is not in"),
        ("clicks.csv", "log: a str is no log"),
    ],
    ids=repr,
)
def test_ids_of_a_new_user_are_checked_as_those_of_files(run, log, message) -> None:
    with pytest.raises(DataError, match=message):
        fold_in_users(run, log)


@pytest.mark.robustness
@pytest.mark.parametrize("name", ["alpha0", "l2"])
@pytest.mark.parametrize("value", ["0.1", True, -1.0, float("nan")], ids=repr)
def test_impossible_settings_of_least_squares_are_named(run, name, value) -> None:
    with pytest.raises(ConfigError, match=f"{name}={value!r}"):
        fold_in_users(run, {"user": "x", "item": 1}, **{name: value})


def test_nobody_new_changes_nothing(run) -> None:
    later = fold_in_users(run, [])
    assert torch.equal(later.users, run.users) and later.user_ids.tolist() == run.user_ids.tolist()


@pytest.mark.robustness
def test_what_a_new_user_rated_below_the_threshold_is_met_but_not_learned_from(run) -> None:
    rated = replace(run, config=run.config | {"min_rating": 4.0})
    liked = {"user": "x", "item": [1, 2, 3]}
    mixed = {"user": "x", "item": [1, 2, 3, 4, 5, 1], "rating": [5, 4, 4, 1, None, 2]}
    one, other = fold_in_users(rated, liked), fold_in_users(rated, mixed)
    assert torch.equal(one.users, other.users) and one.seen == other.seen and one.dropped is None
    assert other.dropped.of(240).tolist() == [4, 5]
    everything = other.recommend("x", k=60)["item"].to_list()
    assert len(everything) == 55 and not {1, 2, 3, 4, 5} & set(everything)
    assert fold_in_users(run, mixed).dropped is None  # a run of all ratings learns from all
    later = fold_in_items(other, {"item": "new", "user": ["x", "0", "0"], "rating": [1, 5, 2]})
    assert later.dropped.of(240).tolist() == [4, 5, 60] and later.seen.of(0)[-1] == 60
    with pytest.raises(DataError, match="log: user 'y' has no rating of min_rating=4"):
        fold_in_users(rated, {"user": "y", "item": 1, "rating": 3})
    with pytest.raises(DataError, match="log: ratings are String; give numbers"):
        fold_in_users(rated, {"user": "y", "item": 1, "rating": "good"})


def test_a_user_who_has_met_more_is_as_one_who_comes_with_all_of_it(run) -> None:
    user, other = run.user_ids[[3, 5]].tolist()
    past = run.item_ids[run.seen.of(3).numpy()].tolist()
    more = [item for item in run.item_ids.tolist() if item not in past][:4]
    updated = update_users(run, {"user": [user] * 4 + [other], "item": [*more, past[0]]})
    assert set(more).isdisjoint(updated.recommend([user], k=20)["item"])
    assert torch.equal(updated.users[[0, 1, 2, 4]], run.users[[0, 1, 2, 4]])
    alone = update_users(run, {"user": [user] * 4, "item": more})
    new = fold_in_users(run, {"user": ["new"] * (len(past) + 4), "item": past + more})
    cosine = torch.nn.functional.cosine_similarity(alone.users[3], new.users[-1], dim=0)
    assert cosine > 0.9999  # as long but for the scale, which comes of all users
    assert torch.equal(update_users(run, {"user": [user], "item": past[:1]}).seen.items, run.seen.items)


def test_updates_of_unknown_users_and_items_are_refused(run) -> None:
    with pytest.raises(RunError, match=r"^user 'nobody' is not in"):
        update_users(run, {"user": ["nobody"], "item": run.item_ids[:1].tolist()})
    with pytest.raises(RunError, match=r"^item -5 is not in"):
        update_users(run, {"user": run.user_ids[:1].tolist(), "item": [-5]})
    with pytest.raises(RunError, match=r"has no seen.safetensors"):
        update_users(replace(run, seen=None), {"user": run.user_ids[:1].tolist(), "item": run.item_ids[:1].tolist()})
