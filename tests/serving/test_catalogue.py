"""Items and users that come, change and go: an index that was updated answers as one that was built anew."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from served import as_lists, made_run, slow_lists

from mrl.data import Positives
from mrl.errors import ConfigError, RunError
from mrl.runs import Run
from mrl.serving import Index

KINDS = [{}, {"widths": [8], "bits": 16}, {"backend": "faiss"}, {"backend": "faiss", "kind": "ivf", "probes": 999}]


def later(run: Run) -> Run:
    """The run with two more users, five more items that some have seen, and another vector for item row 4."""
    other = made_run(99, users=2, items=5)
    items = torch.cat([run.items, other.items])
    items[4] = 3.0
    users = torch.cat([run.users, other.users])
    size = len(users), len(items)
    new = [(12, 0), (12, 91), (13, 4), (0, 90), (1, 91)]
    pairs = (
        torch.cat([old, torch.tensor(added)])
        for old, added in zip((run.seen.users, run.seen.items), zip(*new, strict=True), strict=True)
    )
    labels = pl.concat([run.labels, pl.DataFrame({"title": [f"new {n}" for n in range(5)], "year": [2001] * 5})])
    return replace(
        run,
        user_ids=np.array([*run.user_ids, "v1", "v2"], dtype=object),
        item_ids=np.concatenate([run.item_ids, 1000 + np.arange(5)]),
        labels=labels,
        seen=Positives.from_pairs(*pairs, *size),
        weights={"users": users, "items": items},
    )  # fmt: skip


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_an_updated_index_answers_as_a_new_one(options: dict) -> None:
    if options.get("backend"):
        pytest.importorskip("faiss")
    run = made_run()
    now, index = later(run), Index(run, **options)
    assert index.update(now) == 6
    assert index.update(now) == 0
    users = now.user_ids.tolist()
    assert index.search(users, 95).equals(now.recommend(users, 95))
    assert "new 0" in index.search(users, 95)["title"]

    index.remove([1000, 7])
    left = ~np.isin(now.item_ids, [1000, 7])
    assert as_lists(index.search(users, 95), users) == slow_lists(now, 95, 8, left)
    with pytest.raises(RunError, match=r"^item 1000 is not in"):
        index.search(users, exclude=[1000])
    index.rebuild()
    assert as_lists(index.search(users, 95), users) == slow_lists(now, 95, 8, left)


def test_an_item_that_was_removed_comes_back() -> None:
    run = made_run()
    index = Index(run)
    index.remove([7])
    index.update(run)
    users = run.user_ids.tolist()
    assert sorted(index.search(users[:1], 90)["item"]) == sorted(run.recommend(users[:1], 90)["item"])


def test_a_graph_takes_new_items_hides_old_ones_and_refuses_changes() -> None:
    pytest.importorskip("faiss")
    run = made_run(ties=False)
    now, index = later(run), Index(run, backend="faiss", kind="hnsw")
    users = run.user_ids.tolist()
    before = index.search(users, 10)
    with pytest.raises(
        ConfigError, match=r"^kind='hnsw': a graph cannot take other vectors of its items \(1 have some\)"
    ):
        index.update(now)
    assert index.search(users, 10).equals(before)  # nothing of it was taken over
    same = now.items.clone()
    same[4] = run.items[4]
    now = replace(now, weights=now.weights | {"items": same})
    assert index.update(now) == 5
    users = now.user_ids.tolist()
    assert index.search(users, 10).equals(now.recommend(users, 10))
    index.remove([1000, 1001])
    assert not {1000, 1001} & set(index.search(users, 50)["item"])
    index.rebuild()
    assert not {1000, 1001} & set(index.search(users, 50)["item"])


def test_a_run_of_another_width_is_refused() -> None:
    with pytest.raises(RunError, match=r"^update: the run has 4 dimensions, the index 8; build a new one$"):
        Index(made_run()).update(made_run(dim=4))
