"""Rows that are asked for, and gradients given back: against the whole table, empty shards included."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sharded.test_rows import cut

from mrl.sharded.asked import BYTES, Asked
from mrl.sharded.group import Group


def there_and_back(group: Group, seed: int, edges: list[int], counts: list[int]) -> dict:
    """What each process is asked for, in whose order, and what it is given."""
    rng = np.random.default_rng(seed)
    owned, table = cut(13, sorted(edges)[: group.size - 1], 5, group.rank), torch.arange(26.0).reshape(13, 2)
    wanted = [torch.from_numpy(rng.integers(0, 13, count)) for count in counts[: group.size]]
    keys = torch.arange(sum(counts)).split(counts)[: group.size]
    asked = Asked(group, owned, wanted[group.rank], keys[group.rank])
    before = group.sent
    fetched = asked.fetch(table[owned.start : owned.stop])
    assert torch.equal(fetched, table[wanted[group.rank]])
    answered = group.sent - before
    gradients = torch.cat(wanted)[:, None] + 100.0 * torch.cat(keys)[:, None]  # tell which they are of
    given = asked.give(gradients[keys[group.rank]])
    assert torch.equal(given[:, 0], asked.rows + owned.start + 100.0 * asked.keys)
    mine = (asked.rows >= 0) & (asked.rows < owned.stop - owned.start)
    assert mine.all()
    return {
        "keys": asked.keys.tolist(),
        "answered": answered,
        "own": int((asked.keys[:, None] == keys[group.rank]).sum()),
    }


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])  # processes outlive examples
@given(
    seed=st.integers(0, 99),
    edges=st.lists(st.integers(0, 5), min_size=2, max_size=2),
    counts=st.lists(st.integers(0, 9), min_size=3, max_size=3),
    size=st.integers(1, 3),
)
def test_every_row_is_answered_by_its_owner_and_gradients_find_back(processes, seed, edges, counts, size):
    found = processes.run(size, there_and_back, seed, edges, counts)
    assert sorted(key for each in found for key in each["keys"]) == list(range(sum(counts[:size])))
    for each in found:
        assert each["answered"] == 8 * (len(each["keys"]) - each["own"]), "two floats a row that another one wants"


def asking(group: Group) -> int:
    before = group.sent
    owned = cut(4, [1], 2, group.rank)
    Asked(group, owned, torch.tensor([3, 0, 3]), torch.zeros(3, dtype=torch.int64))
    return group.sent - before


def test_asking_sends_a_number_and_a_key(processes):
    assert processes.run(2, asking) == [2 * BYTES + 8, BYTES + 8]
