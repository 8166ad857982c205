"""The planted taxonomy: exact counts, loyalty that can be measured, depths that can be learned."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrl.data import synthetic
from mrl.data.synthetic import Planted, planted, planted_interactions
from mrl.errors import ConfigError


def shares(drawn: Planted) -> np.ndarray:
    """(D,): how many of the pairs are in their user's home branch at each depth."""
    users, items = drawn.positives.users.numpy(), drawn.positives.items.numpy()
    return (drawn.clusters[items] == drawn.homes[users]).mean(axis=0)


def neighbours(drawn: Planted, count: int) -> np.ndarray:
    """(I, count): the items nearest to each by cosine of who met them, so that popularity cancels."""
    met = np.zeros((drawn.positives.num_users, drawn.positives.num_items))
    met[drawn.positives.users.numpy(), drawn.positives.items.numpy()] = 1
    met /= np.maximum(np.linalg.norm(met, axis=0), 1e-9)
    cosine = met.T @ met
    np.fill_diagonal(cosine, -1)
    return np.argsort(-cosine, axis=1)[:, :count]


@settings(deadline=None, max_examples=60)
@given(
    num_users=st.integers(1, 40),
    branching=st.lists(st.integers(2, 4), min_size=1, max_size=3),
    spare=st.integers(0, 60),
    fill=st.floats(0, 1),
    noise=st.sampled_from([0.0, 0.1, 1.0]),
    popularity=st.floats(0, 4),
    seed=st.integers(0, 2**40),
)
def test_any_setting_gives_exactly_the_pairs_asked_for(num_users, branching, spare, fill, noise, popularity, seed):
    leaves = int(np.prod(branching))
    num_items = 2 * leaves + spare
    most = (num_items if noise else num_items // branching[0]) // 2
    interactions = num_users + int(fill * num_users * (most - 1))
    drawn = planted(num_users, num_items, interactions, branching, noise=noise, popularity=popularity, seed=seed)
    positives = drawn.positives
    assert len(positives) == interactions
    assert (positives.keys().diff() > 0).all()  # sorted, and no pair twice
    assert 1 <= positives.counts.min() <= positives.counts.max() <= most
    assert 0 <= positives.items.min() <= positives.items.max() < num_items
    if noise == 0:
        assert shares(drawn)[0] == 1


def test_clusters_are_balanced_nested_and_not_told_by_ids():
    drawn = planted(100, 1000, 2000, (3, 2, 4))
    assert drawn.clusters.shape == (1000, 3)
    for depth, (count, children) in enumerate(((3, 1), (6, 2), (24, 4))):
        sizes = np.bincount(drawn.clusters[:, depth])
        assert len(sizes) == count
        assert sizes.max() - sizes.min() <= 1
        if depth:
            assert (drawn.clusters[:, depth] // children == drawn.clusters[:, depth - 1]).all()
            assert (drawn.homes[:, depth] // children == drawn.homes[:, depth - 1]).all()
    assert abs(np.corrcoef(np.arange(1000), drawn.clusters[:, 2])[0, 1]) < 0.15


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("loyalty", [None, (1, 0, 0), (0, 0, 1), (3, 2, 1)])
def test_interactions_recover_noise_and_loyalty(noise, loyalty):
    # Leaves are large beside the users' lists here, so that none is used up.
    drawn = planted(3000, 19_200, 45_000, noise=noise, loyalty=loyalty, popularity=0.3)
    mix = np.array(loyalty or (1, 1, 1)) / sum(loyalty or (1, 1, 1))
    counts = drawn.positives.counts.numpy()
    mean = (drawn.loyalty * counts[:, None]).sum(axis=0) / counts.sum()
    assert drawn.loyalty.mean(axis=0) == pytest.approx((1 - noise) * mix, abs=0.02)
    assert drawn.loyalty.sum(axis=1) == pytest.approx(1 - noise)
    # A draw at depth d is in the home branch at every depth above; of those from further out, the part by chance is:
    chance = [[1 if at >= depth else 4.0 ** (at - depth) for at in range(4)] for depth in (1, 2, 3)]
    expected = np.array(chance) @ np.r_[noise, mean]
    assert shares(drawn) == pytest.approx(expected, abs=0.025)


def test_each_user_has_its_own_mix_and_it_shows():
    drawn = planted(500, 19_200, 40_000, noise=0.0, popularity=0.3)
    users, items = drawn.positives.users.numpy(), drawn.positives.items.numpy()
    at_home = (drawn.clusters[items, 2] == drawn.homes[users, 2]).astype(float)
    leaf_share = np.bincount(users, at_home) / drawn.positives.counts.numpy()
    assert drawn.loyalty[:, 2].std() > 0.15
    assert np.corrcoef(leaf_share, drawn.loyalty[:, 2])[0, 1] > 0.85


def test_popularity_and_activity_have_long_tails():
    drawn = planted(2000, 2000, 60_000, popularity=1.0)
    met = np.sort(drawn.positives.item_counts.numpy())[::-1]
    assert met[:200].sum() > 0.3 * met.sum()  # a tenth of the items has a third of the interactions and more
    even = np.sort(planted(2000, 2000, 60_000, popularity=0).positives.item_counts.numpy())[::-1]
    assert even[:200].sum() < 0.2 * even.sum()
    counts = drawn.positives.counts.numpy()
    assert counts.max() > 4 * np.median(counts)
    # Popularity is not a cue to the branch.
    shares_of_branches = np.bincount(drawn.clusters[:, 0], drawn.positives.item_counts.numpy()) / 60_000
    assert shares_of_branches == pytest.approx(0.25, abs=0.06)


def test_every_depth_can_be_learned_from_who_met_what():
    drawn = planted()
    near = neighbours(drawn, 5)
    purity = (drawn.clusters[near] == drawn.clusters[:, None]).mean(axis=(0, 1))
    assert (purity > (0.95, 0.8, 0.3)).all()  # by chance 0.25, 0.06, 0.015
    noisy = planted(noise=1.0)
    purity = (noisy.clusters[neighbours(noisy, 5)] == noisy.clusters[:, None]).mean(axis=(0, 1))
    assert purity == pytest.approx((1 / 4, 1 / 16, 1 / 64), abs=0.04)


def test_the_leading_axes_hold_the_coarse_branches():
    drawn = planted()
    met = np.zeros((2000, 640))
    met[drawn.positives.users.numpy(), drawn.positives.items.numpy()] = 1
    met /= np.sqrt(met.sum(axis=1, keepdims=True)) * np.sqrt(met.sum(axis=0))
    axes = np.linalg.svd(met, full_matrices=False)[2][1:].T  # (I, …), without the axis of popularity

    def explained(depth: int, width: int) -> float:
        """Share of the variance of the first axes that lies between the branches."""
        branch = np.eye(drawn.clusters[:, depth].max() + 1)[drawn.clusters[:, depth]]
        means = branch @ np.linalg.lstsq(branch, axes[:, :width], rcond=None)[0]
        return (means**2).sum() / (axes[:, :width] ** 2).sum()

    assert explained(0, 3) > 0.5
    assert explained(0, 15) < 0.5 < explained(1, 15)
    assert explained(1, 63) < explained(2, 63)


def test_a_seed_repeats_and_another_differs():
    one, same, other = planted(seed=5), planted(seed=5), planted(seed=6)
    assert one.positives == same.positives
    assert (one.clusters == same.clusters).all()
    assert one.positives != other.positives


def test_parts_have_other_users_of_the_same_taxonomy():
    parts = [planted(seed=5, part=part) for part in (0, 1, 2)]
    assert planted(seed=5).positives == parts[0].positives
    assert all((part.clusters == parts[0].clusters).all() for part in parts)
    assert len({part.positives.items[:50].numpy().tobytes() for part in parts}) == 3
    popular = np.corrcoef([part.positives.item_counts for part in parts])
    assert popular.min() > 0.8, "the same items are popular"


def test_chunks_do_not_change_what_holds(monkeypatch):
    monkeypatch.setattr(synthetic, "CHUNK", 50)
    drawn = planted(300, 640, 9000, noise=0.1)
    assert len(drawn.positives) == 9000
    assert (drawn.positives.keys().diff() > 0).all()
    assert shares(drawn)[0] > 0.85


def test_memory_is_bounded_beside_the_result():
    tracemalloc.start()
    drawn = planted(60_000, 20_000, 3_000_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(drawn.positives) == 3_000_000
    assert peak < 250_000_000  # 12 MB of items; a chunk of a million draws takes the rest


def test_planted_interactions_carry_true_clusters_and_split():
    data = planted_interactions(seed=2)
    drawn = planted(seed=2)
    assert data.name == "planted"
    assert data.labels.columns == ["title", "depth_1", "depth_2", "depth_3"]
    assert (data.labels.drop("title").to_numpy() == drawn.clusters[data.item_ids]).all()
    row = 5
    branch, item = drawn.clusters[data.item_ids[row], -1], data.item_ids[row]
    assert data.labels["title"][row] == f"branch 3·{branch} #{item}"
    positives = data.train.union(data.test)
    assert len(positives) == len(data.train) + len(data.test) == 60_000
    assert (positives.item_counts.numpy() == drawn.positives.item_counts.numpy()[data.item_ids]).all()
    assert 0.18 < len(data.test) / 60_000 < 0.22
    small = planted_interactions(200, 100, 1500, (2, 3), core=5)
    assert small.labels.columns == ["title", "depth_1", "depth_2"]
    assert small.labels["title"].str.contains(r"^branch 2·[0-5] #\d+$").all()
    assert small.train.union(small.test).item_counts.min() >= 5


@pytest.mark.robustness
@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"num_users": 0}, "num_users=0: must be a whole number of at least 1"),
        ({"interactions": 10}, "interactions=10: must be a whole number of at least 2000"),
        ({"interactions": 10**6}, "interactions=1000000: 2000 users have room for 640000"),
        ({"interactions": 200_000, "noise": 0}, "interactions=200000: 2000 users have room for 160000"),
        ({"num_items": 63}, "num_items=63: must be a whole number of at least 64"),
        ({"branching": []}, r"branching=\[\]: give the children"),
        ({"branching": (4, 1)}, "branching=1: must be a whole number of at least 2"),
        ({"branching": "444"}, "branching='444': give the children"),
        ({"branching": 4}, "branching=4: give the children"),
        ({"noise": 1.1}, r"noise=1\.1: must be a finite number, between 0 and 1"),
        ({"noise": float("nan")}, "noise=nan"),
        ({"popularity": -1}, "popularity=-1: must be a finite number, not negative"),
        ({"popularity": float("inf")}, "popularity=inf"),
        ({"loyalty": (1, 1)}, r"loyalty=\(1, 1\): give one weight for each of the 3 depths"),
        ({"loyalty": (0, 0, 0)}, r"loyalty=\(0, 0, 0\): one weight at least must be above zero"),
        ({"loyalty": (1, -1, 1)}, "loyalty=-1: must be a finite number"),
        ({"seed": -1}, "seed=-1: must be a whole number"),
        ({"seed": 1.5}, r"seed=1\.5"),
        ({"part": -1}, "part=-1: must be a whole number"),
    ],
)
def test_impossible_settings_are_named(setting, message):
    with pytest.raises(ConfigError, match=message) as caught:
        planted(**setting)
    assert "\n" not in str(caught.value)
