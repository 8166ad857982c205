"""Search by prefix: exact lists are those of `recommend` item for item, ladders reach them, filters hold exactly."""

from __future__ import annotations

import multiprocessing
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from served import as_lists, made_run, popular_run, slow_lists

from mrl.errors import ConfigError, DataError, RunError
from mrl.serving import Index

APPROXIMATE = [
    {"widths": [4, 8], "shortlist": [40]},
    {"widths": [2, 4, 8], "shortlist": [60, 30], "bits": 8},
    {"widths": [8], "bits": 8},
    {"widths": [8], "bits": 16},
    {"widths": [4, 8], "shortlist": [80, 40], "bits": 1},
]
FAISS = [{"kind": kind} for kind in ("flat", "ivf", "hnsw", "panorama")] + [{"bits": 8}, {"kind": "ivf", "bits": 16}]


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    items=st.integers(1, 120),
    dim=st.integers(1, 9),
    k=st.integers(1, 130),
    filtered=st.booleans(),
    data=st.data(),
)
def test_exact_lists_are_those_of_recommend_and_of_a_slow_sort(seed, items, dim, k, filtered, data) -> None:
    run = made_run(seed, users=5, items=items, dim=dim)
    width, users = data.draw(st.integers(1, dim)), run.user_ids.tolist()
    index = Index(run, [width])
    if k <= items:
        assert index.search(users, k).equals(run.recommend(users, k, width))
        assert index.search(users, k, exclude_seen=False).equals(run.recommend(users, k, width, exclude_seen=False))
    allowed = np.random.default_rng(seed).random(items) < 0.5 if filtered else None
    assert as_lists(index.search(users, k, only=allowed), users) == slow_lists(run, k, width, allowed)


@pytest.mark.parametrize("options", [*APPROXIMATE, *({"backend": "faiss"} | each for each in FAISS)], ids=str)
def test_other_ladders_and_codes_come_near_and_honour_every_filter(options: dict) -> None:
    if options.get("backend"):
        pytest.importorskip("faiss")
    run = made_run(3, users=30, items=400, ties=False)
    users, index = run.user_ids.tolist(), Index(run, **options)
    allowed = (run.labels["year"] >= 1990).to_numpy()
    banned = run.item_ids[:50]
    rest = allowed & ~np.isin(run.item_ids, banned)
    for found, wanted in [
        (index.search(users, 10), slow_lists(run, 10, 8)),
        (index.search(users, 10, only=pl.col("year") >= 1990, exclude=banned), slow_lists(run, 10, 8, rest)),
    ]:
        lists = as_lists(found, users)
        assert [len(items) for items in lists] == [10] * 30
        hits = [len(set(items) & set(best)) / 10 for items, best in zip(lists, wanted, strict=True)]
        assert np.mean(hits) > (0.6 if index.bits == 1 else 0.85)
    assert set(found["item"]) <= set(run.item_ids[rest].tolist())
    seen = {(run.user_ids[user], run.item_ids[item]) for user, item in zip(run.seen.users, run.seen.items, strict=True)}
    assert not seen & set(found.select("user", "item").rows())
    few = run.item_ids[[5, 6, 7]]
    assert as_lists(index.search(users, 10, only=few), users) == slow_lists(run, 10, 8, np.isin(run.item_ids, few))


def test_faiss_flat_is_exact_too() -> None:
    pytest.importorskip("faiss")
    run = made_run(4, users=20, items=300, ties=False)
    users = run.user_ids.tolist()
    for kind in ("flat", "panorama"):
        assert Index(run, backend="faiss", kind=kind).search(users, 20).equals(run.recommend(users, 20))


def test_vectors_are_queries_and_items_of_their_own_have_row_numbers() -> None:
    run = made_run(1)
    index = Index(run.items)
    for queries in (run.users, run.users.numpy(), run.users.double().numpy()):
        found = index.search(queries, 6)
        assert found["user"].to_list() == [user for user in range(12) for _ in range(6)]
        lists = [run.item_ids[items].tolist() for items in as_lists(found, list(range(12)))]
        assert lists == slow_lists(run, 6, 8, hides=False)
    with pytest.raises(ConfigError, match="it is not known what vectors have seen"):
        index.search(run.users, exclude_seen=True)


@pytest.mark.parametrize(
    "options", [{}, {"widths": [4, 8], "shortlist": [40], "bits": 8}, {"backend": "faiss"}], ids=str
)
def test_threads_and_batches_change_nothing(options: dict) -> None:
    if options.get("backend"):
        pytest.importorskip("faiss")
    run = made_run(2, users=300, items=2000)
    users = run.user_ids.tolist()
    one, two = (Index(run, threads=threads, **options).search(users, 7) for threads in (1, 2))
    assert one.equals(two)
    index = Index(run, threads=1, **options)
    assert pl.concat([index.search(user, 7) for user in users[:20]]).equals(
        one.filter(pl.col("user").is_in(users[:20]))
    )


def _search_in_child(index: Index, users: list, queue) -> None:
    queue.put(index.search(users, 5).rows())


@pytest.mark.parametrize("options", [{}, {"backend": "faiss"}, {"backend": "faiss", "kind": "hnsw"}], ids=str)
def test_a_forked_worker_answers(options: dict) -> None:
    if options.get("backend"):
        pytest.importorskip("faiss")
    run = made_run(5, users=40, items=500)
    users, index = run.user_ids.tolist(), Index(run, threads=2, **options)
    wanted = index.search(users, 5).rows()
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_search_in_child, args=(index, users, queue))
    child.start()
    try:
        assert queue.get(timeout=60) == wanted
    finally:
        child.kill()


def test_what_it_costs_is_said() -> None:
    run = made_run(0, items=90)
    index = Index(run, [2, 4, 8], [40, 20], bits=8, threads=1)
    assert index.multiply_adds == 2 * 90 + 4 * 40 + 8 * 20
    assert index.bytes_per_item == 2 + 4 * 8
    assert repr(index) == "Index(90 items, width 2 → 4 → 8, 40 → 20 re-ranked, 8 bits, plain, 1 thread)"
    assert Index(run, [8], bits=8).bytes_per_item == 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"widths": [16]}, r"^widths=\[16\]: 16 is wider than the 8 dimensions there are$"),
        ({"widths": [4, 8]}, r"^shortlist=\[\]: widths=\[4, 8\] need 1 numbers, how many items go on"),
        ({"widths": [8], "shortlist": [9]}, r"^shortlist=\[9\]: widths=\[8\] need 0 numbers, how many"),
        ({"widths": [2, 4, 8], "shortlist": [9, 10]}, r"must not grow from width to width"),
        ({"widths": [4, 8], "shortlist": [0]}, "give whole numbers from 1 on"),
        ({"bits": 7}, "^bits=7: must be one of"),
        ({"backend": "annoy"}, "^backend='annoy': must be one of plain, faiss$"),
        ({"kind": "hnsw"}, "^kind: is a setting of backend='faiss'"),
        ({"threads": -1}, "^threads=-1: must be a whole number"),
    ],
)
def test_bad_settings_stop_in_one_line(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Index(made_run(), **options)


def test_bad_queries_stop_in_one_line() -> None:
    run = made_run()
    index = Index(run, [4, 8], [20])
    for error, message, call in [
        (RunError, "^user 'nobody' is not in made", lambda: index.search("nobody")),
        (DataError, "^user id None|missing", lambda: index.search([None])),
        (ConfigError, r"^k=0: must be a whole number from 1 on$", lambda: index.search("u1", 0)),
        (ConfigError, r"^k=21: is more than the shortlist \[20\]", lambda: index.search("u1", 21)),
        (RunError, "^item 8 is not in made", lambda: index.search("u1", exclude=[8])),
        (ConfigError, "^only: a mask of shape", lambda: index.search("u1", only=np.ones(3, bool))),
        (ConfigError, "^only: .*labels are", lambda: index.search("u1", only=pl.col("colour") == 1)),
        (ConfigError, "^only: the expression gives", lambda: index.search("u1", only=pl.col("year"))),
        (ConfigError, "^queries: 3 dimensions, where items have 8$", lambda: index.search(np.ones((2, 3)))),
        (ConfigError, "^queries: NaN", lambda: index.search(np.full((2, 8), np.nan))),
        (ConfigError, "^items: NaN", lambda: Index(torch.full((2, 8), torch.inf))),
        (RunError, "has no seen.safetensors", lambda: Index(replace(run, seen=None)).search("u1")),
    ]:
        with pytest.raises(error, match=message):
            call()


@pytest.mark.parametrize("options", [{}, {"widths": [4]}, {"widths": [4, 8], "shortlist": [300]}], ids=str)
def test_popularity_is_projected_out_as_recommend_does_without_touching_items(options: dict) -> None:
    run = popular_run()
    users, width = run.user_ids.tolist(), options.get("widths", [8])[-1]
    less, plain = Index(run, **options, popularity=0.25), Index(run, **options)
    lists = less.search(users, 10)
    assert lists.equals(run.recommend(users, 10, width, popularity=0.25))
    assert not lists.equals(plain.search(users, 10)) and np.array_equal(less.catalogue.items, run.items.numpy())
    by_vectors = less.search(run.users, 10, exclude=[])["item"].to_list()
    assert by_vectors == run.recommend(users, 10, width, False, 0.25)["item"].to_list()
    assert plain.search(users, 10).equals(Index(run, **options, popularity=1).search(users, 10))
    assert "popularity 0.25" in repr(less) and "popularity" not in repr(plain)


def test_an_index_without_popularity_takes_new_users_and_keeps_its_directions() -> None:
    run = popular_run()
    index, directions = Index(run, popularity=0), run.popularity.directions
    users, ids = run.users.clone(), run.user_ids.copy()
    users[0], ids[0] = users[1], "new"  # what fold-in would give a user alike
    assert index.update(replace(run, user_ids=ids, weights=run.weights | {"users": users})) == 0
    new, like = index.search(["new"], 5, exclude_seen=False), index.search(["u1"], 5, exclude_seen=False)
    assert new["item"].to_list() == like["item"].to_list()
    index.rebuild()
    assert index.directions is directions and index.search(["u1"], 5, exclude_seen=False).equals(like)


def test_popularity_is_refused_where_it_is_out_of_range_or_unknown() -> None:
    run = popular_run()
    with pytest.raises(
        ConfigError, match=r"^popularity=2: must be a number from 0 to 1; 1 is as trained, 0 without it$"
    ):
        Index(run, popularity=2)
    with pytest.raises(ConfigError, match=r"^popularity=0.5: vectors do not say how popular items are; give a run$"):
        Index(run.items, popularity=0.5)
    with pytest.raises(RunError, match=r"^made: has no seen.safetensors, so how popular items are is unknown; train "):
        Index(replace(run, seen=None), popularity=0.5)
