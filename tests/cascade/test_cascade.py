"""Cascades: lists and widths as a loop over users gives them, the target on users they were not fitted on, refusals."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from settings import GIVEN, one_validation_split, train_config

from mrl import fit, load_data
from mrl.cascade import cascade as rooms
from mrl.cascade.cascade import TARGETS, Cascade, fit_cascade
from mrl.cascade.confidence import CONFIDENCES, LISTING, confidence_at, widths_compared
from mrl.cascade.table import describe_cascade
from mrl.data import Positives
from mrl.errors import ConfigError, RunError
from mrl.serving.index import Index

PLANTED = {"num_users": 1500, "num_items": 150, "interactions": 30_000, "branching": [3, 4], "noise": 0.05}
WIDTHS = (2, 4, 8)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("runs") / "run")
    config = train_config(
        **GIVEN, recipe="least_squares", dataset="planted", planted=PLANTED, widths=WIDTHS, device="cpu", run_dir=path
    )
    data = load_data(config)
    with one_validation_split():
        return fit(config, data, progress=False), data


def lists_at(run, user, width: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    table = run.recommend([user], k=k, width=width)
    rows = {item: row for row, item in enumerate(run.item_ids.tolist())}
    items, scores = np.full((1, k), -1), np.full((1, k), -np.inf)
    items[0, : len(table)] = [rows[item] for item in table["item"].to_list()]
    scores[0, : len(table)] = table["score"].to_list()
    return items, scores


def search_slowly(cascade: Cascade, run, user, k: int) -> tuple[int, pl.DataFrame]:
    vector, before = run.users[run.user_rows[str(user)]][None].numpy(), None
    for width in widths_compared(cascade.widths):
        items, scores = lists_at(run, user, width, cascade.k + 1)
        if width in cascade.widths:
            level = cascade.widths.index(width)
            if width == cascade.widths[-1]:
                break
            sure = confidence_at(cascade.confidence, cascade.k, vector, width, items, scores, before)
            if sure[0] >= cascade.thresholds[level]:
                break
        before = items
    return width, run.recommend([user], k=k, width=width)


@pytest.mark.parametrize("kind", CONFIDENCES)
def test_searches_as_a_loop_over_users_does(made, kind) -> None:
    run, _ = made
    users = run.user_ids[:25].tolist()
    typical = {"overlap": 0.55, "rbo": 0.6, "gap": 0.02, "energy": 0.4, "margin": 1.0, "overlap_energy": 0.3}[kind]
    cascade = Cascade(WIDTHS, (typical, typical), kind, 10, 0.9, "ndcg", pl.DataFrame())
    for k in (1, 10, 15):
        found = cascade.search(run, users, k)
        width, expected = zip(*(search_slowly(cascade, run, user, k) for user in users), strict=True)
        assert found.columns == [*expected[0].columns, "width"]
        assert found.drop("width").equals(pl.concat(expected))
        by_user = found.group_by("user", maintain_order=True).agg(pl.col("width").unique())
        assert by_user["width"].to_list() == [[each] for each in width]


@pytest.mark.parametrize("kind", ["overlap", "energy"])
def test_everybody_stops_at_once_or_never(made, kind) -> None:
    run, _ = made
    for thresholds, width in (((-np.inf, np.inf), 2), ((np.inf, -np.inf), 4), ((np.inf, np.inf), 8)):
        cascade = Cascade(WIDTHS, thresholds, kind, 10, 0.9, "ndcg", pl.DataFrame())
        found = cascade.search(run, run.user_ids[:9].tolist())
        assert found["width"].unique().to_list() == [width]
        assert found.drop("width").equals(run.recommend(run.user_ids[:9].tolist(), k=10, width=width))


def test_what_was_removed_from_an_index_is_not_found_and_seen_items_only_where_wanted(made) -> None:
    run, _ = made
    cascade = Cascade(WIDTHS, (0.5, 0.5), "overlap", 10, 0.9, "ndcg", pl.DataFrame())
    index, user = Index(run, widths=[4, 8], shortlist=[50], bits=8), run.user_ids[:1].tolist()
    first = cascade.search(index, user)
    index.remove([first["item"][0]])
    assert first["item"][0] not in cascade.search(index, user)["item"].to_list()
    seen = set(run.item_ids[run.seen.of(0).numpy()].tolist())
    assert not seen & set(first["item"].to_list())
    assert seen & set(cascade.search(run, user, exclude_seen=False)["item"].to_list())
    assert len(cascade.search(run, user, k=1000)) == len(run.item_ids) - len(seen)
    assert len(cascade.search(run, [])) == 0


@pytest.mark.parametrize(
    "kind, thresholds, expected",
    [
        ("energy", (0.5, 0.5), [1, 1, 1]),
        ("gap", (0.5, 0.5), [1, 2, 3]),
        ("gap", (np.inf, 0.5), [1, 1, 2]),
        ("overlap", (0.5, 0.5), [2, 3, 4]),
        ("overlap", (np.inf, 0.5), [1, 2, 3]),
        ("overlap", (np.inf, np.inf), [1, 1, 1]),
        ("overlap", (-np.inf, np.inf), [1, 1, 1]),
    ],
)
def test_lists_are_selected_where_they_decide_or_are_served(kind, thresholds, expected, made, monkeypatch) -> None:
    run, _ = made
    cascade = Cascade(WIDTHS, thresholds, kind, 10, 0.9, "ndcg", pl.DataFrame())
    assert cascade.selections(np.arange(3)).tolist() == expected
    selected = []

    def counted(scores, *others):
        selected.append(len(scores))
        return best(scores, *others)

    best = rooms._best
    monkeypatch.setattr(rooms, "_best", counted)
    found = cascade.search(run, run.user_ids[:40].tolist()).group_by("user").agg(pl.col("width").first())
    assert sum(selected) == sum(expected[WIDTHS.index(width)] for width in found["width"])


@pytest.fixture(scope="module", params=["ndcg", "recall", "overlap"])
def fitted(made, request) -> Cascade:
    run, data = made
    return fit_cascade(run, 0.95, k=10, metric=request.param, data=data)


def test_it_keeps_the_target_on_users_that_it_was_not_fitted_on(fitted) -> None:
    for row in fitted.table.filter(kind="cascade").iter_rows(named=True):
        assert row["share"] >= row["target"] - 3 * row["share_error"], row
        assert row["share_error"] < 0.05


def test_its_table_has_a_row_for_every_choice(fitted, made) -> None:
    run, _ = made
    table = fitted.table
    assert table["kind"].to_list() == [
        *(["fixed"] * 5), "best_fixed", "mixed", *(["cascade"] * len(TARGETS)), "oracle"
    ]  # fmt: skip
    fixed = table.filter(kind="fixed")
    assert fixed["width"].to_list() == [2, 3, 4, 6, 8] == fixed["expected_width"].to_list()
    assert fixed["share"][-1] == 1.0 and fixed["share_error"][-1] == 0.0 and fixed["test_overlap"][-1] == 1.0
    np.testing.assert_allclose(table["multiply_adds"], table["expected_width"] * len(run.item_ids))
    asked = table.filter("is_asked")
    assert asked["kind"].to_list() == ["best_fixed", "mixed", "cascade", "oracle"]
    assert asked["target"].to_list() == [0.95] * 4
    row = table.filter(kind="cascade", is_asked=True).row(0, named=True)
    assert row["confidence"] == fitted.confidence and 2 <= row["expected_width"] <= 8
    assert (row["lists"] > 1) == (fitted.confidence in LISTING)
    expected = table.filter(kind="cascade").sort("target")["expected_width"].to_list()
    assert expected == sorted(expected)
    oracle = table.filter(kind="oracle").row(0, named=True)
    assert oracle["share"] >= (0.95 if fitted.metric == "overlap" else 1.0) and oracle["test_ndcg"] is None
    assert fitted.confidence in CONFIDENCES and describe_cascade(table).count("%") >= 3


def test_test_is_what_the_run_itself_says(fitted, made) -> None:
    """Of all test users, where half of them are measured: within sampling error; and by a search it is the same."""
    run, data = made
    written = run.by_width("test", 10)["ndcg@10"].to_list()
    measured = fitted.table.filter(kind="fixed").filter(pl.col("width").is_in(WIDTHS))["test_ndcg"].to_list()
    assert measured == pytest.approx(written, rel=0.05)
    served = fitted.search(run, run.user_ids.tolist()).group_by("user").agg(pl.col("width").first())["width"].mean()
    assert served == pytest.approx(fitted.table.filter(kind="cascade", is_asked=True)["served_width"][0], rel=0.06)
    assert len(data.test.counts.nonzero()) > 1000


def test_the_same_seed_gives_the_same_cascade(made) -> None:
    run, data = made
    first, second = (fit_cascade(run, 0.9, k=10, metric="overlap", most_users=300, seed=3) for _ in range(2))
    assert first.thresholds == second.thresholds and first.table.equals(second.table)
    assert first.table["test_ndcg"].null_count() == len(first.table)  # no data were given, none are needed
    assert data.valid is not None and first.table["test_overlap"][0] == first.table["share"][0]


@pytest.mark.parametrize("metric", ["overlap", "ndcg"])
def test_nothing_of_test_is_in_the_choice(made, metric) -> None:
    run, data = made
    unseen = replace(run, seen=data.train)  # so that its own vectors are taken for both
    other = replace(data, test=Positives(data.test.offsets, data.num_items - 1 - data.test.items, data.num_items))
    first, second = (fit_cascade(unseen, 0.9, k=10, metric=metric, data=each) for each in (data, other))
    assert first.thresholds == second.thresholds and first.confidence == second.confidence
    chosen = ["expected_width", "share", "share_error", "gain"]
    assert first.table.select(chosen).equals(second.table.select(chosen))
    assert not first.table.equals(second.table)


def test_one_width_is_a_cascade_that_always_stops_there(made) -> None:
    run, data = made
    cascade = fit_cascade(run, 0.9, k=10, metric="overlap", widths=[8], data=data)
    assert cascade.thresholds == () and cascade.widths == (8,)
    assert cascade.table["expected_width"].unique().to_list() == [8.0]
    users = run.user_ids[:3].tolist()
    assert cascade.search(run, users, 5).drop("width").equals(run.recommend(users, k=5))


def test_equal_scores_give_equal_lists_and_the_narrowest_width(made) -> None:
    run, data = made
    flat = replace(run, weights={"users": torch.ones_like(run.users), "items": torch.ones_like(run.items)})
    cascade = fit_cascade(flat, 0.9, k=10, metric="overlap", data=data)
    assert cascade.table.filter(kind="cascade")["expected_width"].to_list() == [2.0] * len(TARGETS)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"target": 1.0}, r"target=1\.0: must lie strictly between 0 and 1; the full width alone keeps everything"),
        ({"target": True}, "target=True"),
        ({"metric": "map"}, "metric='map': must be one of ndcg, recall, overlap"),
        ({"confidence": "softmax"}, "confidence='softmax': must be auto, energy"),
        ({"widths": [2, 4]}, r"widths=\[2, 4\]: the last must be the full width, 8"),
        ({"widths": [4, 2]}, "must increase"),
        ({"k": 151}, "k=151: there are 1"),
        ({"k": 0}, "k=0: must be a whole number of at least 1"),
        ({"most_users": 1}, "most_users=1: must be a whole number of at least 2"),
    ],
)
def test_impossible_settings_are_refused(made, settings, message) -> None:
    run, data = made
    with pytest.raises(ConfigError, match=message):
        fit_cascade(run, **{"metric": "overlap", "data": data} | settings)


def test_other_data_are_refused(made) -> None:
    run, data = made
    fewer = replace(data, train=data.train.take(torch.arange(9)))
    with pytest.raises(RunError, match=r"planted has 9 and .*give the data that it was trained on"):
        fit_cascade(run, data=fewer)


def test_what_has_no_accuracy_to_keep_is_refused(made) -> None:
    run, data = made
    nothing = replace(run, seen=data.train, weights={**run.weights, "users": -run.users})
    with pytest.raises(
        ConfigError, match=r"ndcg@1 of the full width is 0 .* choose by metric='overlap', or a larger k"
    ):
        fit_cascade(nothing, k=1, metric="ndcg", data=data, most_users=20)


def test_a_search_that_cannot_be_is_refused(made) -> None:
    run, _ = made
    cascade = Cascade((2, 4), (0.5,), "overlap", 10, 0.9, "ndcg", pl.DataFrame())
    with pytest.raises(ConfigError, match="8 dimensions, where the cascade was fitted to 4; fit one to this run"):
        cascade.search(run, [0])
    cascade = replace(cascade, widths=WIDTHS, thresholds=(0.5, 0.5))
    with pytest.raises(RunError, match="is not in"):
        cascade.search(run, ["nobody"])
    with pytest.raises(RunError, match="exclude_seen=False"):
        cascade.search(replace(run, seen=None), run.user_ids[:1].tolist())
    with pytest.raises(ConfigError, match="k=0"):
        cascade.search(run, run.user_ids[:1].tolist(), 0)
