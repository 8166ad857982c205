"""Secure aggregation: sums to the last bit, uploads that look random, drop-outs, bounds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mrl.data import Positives
from mrl.errors import ConfigError, RunError
from mrl.federated import FederatedConfig, Message, Simulation
from mrl.privacy import masks
from mrl.privacy.masks import FixedPoint, MaskedSum, Member, Server, dropout_failure, privacy_failure, ring, secure_sum


def drawn(clients: int, shape=(5, 3), seed: int = 0) -> dict[int, np.ndarray]:
    generator = np.random.default_rng(seed)
    fixed = FixedPoint(clients, 8.0)
    return {number: fixed.encode(generator.uniform(-8, 8, shape)) for number in range(clients)}


@settings(deadline=None, max_examples=25)
@given(st.data())
def test_the_sum_is_that_of_the_uploads_that_came(data):
    clients = data.draw(st.integers(2, 14))
    degree = 2 * data.draw(st.integers(1, 5))
    uploads = drawn(clients, seed=data.draw(st.integers(0, 99)))
    uploads = {10 * number + 3: upload for number, upload in uploads.items()}  # any numbers will do
    dropped = data.draw(st.sets(st.sampled_from(sorted(uploads)), max_size=clients // 3))
    silent = data.draw(st.sets(st.sampled_from(sorted(uploads)), max_size=clients // 4))
    expected = np.zeros((5, 3), np.uint64)
    for number, upload in uploads.items():
        if number not in dropped:
            expected = expected + upload
    try:
        total = secure_sum(uploads, np.random.default_rng(1), degree=degree, dropped=dropped, silent=silent)
    except RunError as error:
        assert "are needed to open the sum" in str(error) and dropped | silent
    else:
        np.testing.assert_array_equal(total, expected)


def test_a_sum_with_drop_outs_on_a_sparse_graph():
    uploads = drawn(120)
    dropped, silent = set(range(0, 120, 9)), set(range(4, 120, 17))
    total = secure_sum(uploads, np.random.default_rng(2), degree=20, dropped=dropped, silent=silent)
    np.testing.assert_array_equal(total, sum(u for n, u in uploads.items() if n not in dropped))
    decoded = FixedPoint(120, 8.0).decode(total)
    exact = sum(FixedPoint(120, 8.0).decode(u) for n, u in uploads.items() if n not in dropped)
    np.testing.assert_allclose(decoded, exact, rtol=0, atol=1e-12)


def test_uploads_of_dropped_clients_are_never_looked_at():
    uploads = drawn(8)
    whole = secure_sum({**uploads, 5: None}, np.random.default_rng(0), dropped={5})
    np.testing.assert_array_equal(whole, sum(u for n, u in uploads.items() if n != 5))


def uniform_bytes(upload: np.ndarray) -> float:
    """The p-value of a χ² test of equal frequencies of all bytes."""
    return stats.chisquare(np.bincount(upload.view(np.uint8).ravel(), minlength=256)).pvalue


def test_one_upload_alone_looks_random_and_without_a_mask_does_not():
    vector = np.random.default_rng(0).normal(size=64)
    plain = FixedPoint(8, 64.0).encode(np.outer(vector, vector))
    generator = np.random.default_rng(3)
    graph = ring(range(8), 4, generator)
    members = {number: Member(number, graph[number], 3, generator) for number in graph}
    publics = {number: member.public for number, member in members.items()}
    masked = members[2].mask(plain, publics)
    words = masked.ravel() / 2.0**64
    assert uniform_bytes(masked) > 0.01 and stats.kstest(words, "uniform").pvalue > 0.01
    assert abs(np.corrcoef(words, plain.view(np.int64).ravel())[0, 1]) < 0.05
    assert uniform_bytes(plain) < 1e-12 and stats.kstest(plain.ravel() / 2.0**64, "uniform").pvalue < 1e-12
    # A mask hides the upload, it does not depend on it: the same keys on another upload differ by the uploads alone.
    np.testing.assert_array_equal(members[2].mask(2 * plain, publics) - masked, plain)
    # And the sum of all but one is as random as one.
    others = sum(members[number].mask(plain, publics) for number in graph if number != 5)
    assert uniform_bytes(others) > 0.01


def test_two_sums_share_no_mask():
    plain = np.zeros(1000, np.uint64)
    generator = np.random.default_rng(0)
    first, second = (Member(0, [1], 1, generator) for _ in range(2))
    publics = {1: 7}
    assert (first.mask(plain, publics) != second.mask(plain, publics)).all()


def test_too_few_answers_open_nothing():
    with pytest.raises(RunError, match=r"client \d+: \d of its neighbours answered, 3 are needed .* make the round"):
        secure_sum(drawn(9), np.random.default_rng(0), degree=4, silent={0, 1, 2, 3, 4, 5, 6})
    with pytest.raises(RunError, match="no client sent an upload"):
        secure_sum(drawn(3), np.random.default_rng(0), dropped={0, 1, 2})


def test_a_server_that_asks_for_both_secrets_gets_neither():
    member = Member(0, [1, 2], 2, np.random.default_rng(0))
    member.held[1] = np.zeros((2, masks.LIMBS), np.uint64)
    with pytest.raises(RunError, match="client 1 is said to have sent and not to have sent"):
        member.reveal({1}, {1})
    assert set(member.reveal({1}, {2})) == {1}


def test_a_server_takes_one_upload_of_one_shape():
    server = Server({0: [1], 1: [0]}, {}, 1)
    server.receive(0, np.zeros(3, np.uint64))
    with pytest.raises(RunError, match="client 0 has sent already"):
        server.receive(0, np.zeros(3, np.uint64))
    with pytest.raises(RunError, match=r"client 1 sent an upload of shape \(2,\), others \(3,\)"):
        server.receive(1, np.zeros(2, np.uint64))


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 12), st.integers(0, 2**32), st.data())
def test_shares_open_the_secret_from_any_threshold_of_them(threshold, seed, data):
    generator = np.random.default_rng(seed)
    secret = generator.integers(0, masks.FIELD, (2, masks.LIMBS), dtype=np.uint64)
    shares = masks.share(secret, 12, threshold, generator)
    places = data.draw(st.sets(st.integers(0, 11), min_size=threshold))
    np.testing.assert_array_equal(masks.reconstruct({at: shares[at] for at in places}, threshold), secret)


def test_fewer_shares_say_nothing():
    """One share of two is uniform whatever the secret is."""
    generator, zero = np.random.default_rng(0), np.zeros(20_000, np.uint64)
    share = masks.share(zero, 1, 2, generator)[0]
    assert stats.kstest(share / masks.FIELD, "uniform").pvalue > 0.01


def test_the_ring_is_regular_and_mutual():
    graph = ring(range(50), 8, np.random.default_rng(0))
    assert all(len(set(near)) == 8 and number not in near for number, near in graph.items())
    assert all(number in graph[other] for number, near in graph.items() for other in near)
    assert {len(near) for near in ring(range(5), 8, np.random.default_rng(0)).values()} == {4}


def test_what_a_client_sends_is_its_upload_twice_as_long_and_little_more():
    assert masks.masked_bytes(100, degree=4) == 16 + 4 * (2 * 16) + 800 + 4 * 16
    assert masks.masked_bytes(10**6) / (4 * 10**6) < 2.001


def test_how_likely_a_graph_fails():
    draws = np.random.default_rng(0).permuted(np.tile(np.arange(40), (20_000, 1)), axis=1)[:, :6]  # of 40 others
    by_hand = 41 * ((draws < 4).sum(1) >= 2).mean()
    assert privacy_failure(41, 6, 2, 0.1) == pytest.approx(min(1, by_hand), rel=0.05)
    assert dropout_failure(41, 6, 4, 0.1) == privacy_failure(41, 6, 3, 0.1)
    assert privacy_failure(28_000, 64, 33, 0.1) < 1e-10 > dropout_failure(28_000, 64, 33, 0.1)


@pytest.mark.robustness
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"clients": 0, "bound": 1.0}, "clients=0"),
        ({"clients": 3, "bound": float("nan")}, "bound=nan: must be finite and positive"),
        ({"clients": 3, "bound": 1.0, "bits": 60}, "bits=60: give a whole number from 0 to 52"),
        ({"clients": 2**20, "bound": 2.0**20, "bits": 24}, "overflow 64 bits at bits=24: lower bits, bound or"),
    ],
)
def test_impossible_fixed_points_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        FixedPoint(**settings)


@pytest.mark.robustness
def test_uploads_that_do_not_fit_are_refused():
    fixed = FixedPoint(4, 2.0)
    with pytest.raises(RunError, match="an upload with NaN or infinity cannot be masked"):
        fixed.encode(np.array([0.0, np.nan]))
    with pytest.raises(RunError, match=r"an upload holds 2\.5, beyond the bound of 2"):
        fixed.encode(np.array([0.0, -2.5]))
    edge = sum(FixedPoint(2**10, 2.0**20, 32).encode(np.array([2.0**20])) for _ in range(2**10))
    assert FixedPoint(2**10, 2.0**20, 32).decode(edge) == 2.0**30
    values = np.array([-2.0, -1 / 3, 0.0, 1e-9, 2.0])
    np.testing.assert_allclose(fixed.decode(fixed.encode(values)), values, rtol=0, atol=2.0**-25)


@pytest.mark.robustness
@pytest.mark.parametrize(
    ("clients", "options", "message"),
    [
        (1, {}, "1 clients in a sum"),
        (4, {"degree": 3}, "degree=3: give an even number"),
        (9, {"degree": 4, "threshold": 2}, "threshold=2: give more than half of the 4 neighbours"),
        (9, {"degree": 4, "threshold": 5}, "threshold=5"),
    ],
)
def test_impossible_sums_are_refused(clients, options, message):
    with pytest.raises(ConfigError, match=message):
        secure_sum(drawn(clients), np.random.default_rng(0), **options)


CONFIG = FederatedConfig(widths=[2, 4], alpha0=0.1, l2=0.1, start_rounds=1, shares=[1, 1])


def simulated(positives: Positives, summation=None, **settings) -> Simulation:
    simulation = Simulation(replace(CONFIG, **settings), positives, summation=summation)
    for _ in range(3):
        simulation.round()
    return simulation


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_rounds_with_masks_end_where_rounds_without_do(dropout):
    """Also with clients of different width, drop-outs, and clients that are gone before the opening."""
    rows, columns = np.nonzero(np.random.default_rng(0).random((30, 20)) < 0.3)
    positives = Positives.from_pairs(rows, columns, 30, 20)
    plain = simulated(positives, dropout=dropout)
    masked = simulated(positives, MaskedSum(100.0, degree=28, silent=0.05), dropout=dropout)
    assert not dropout or masked.round()["dropped"] == plain.round()["dropped"] > 0
    for one, other in zip(plain.vectors(), masked.vectors(), strict=True):
        assert float((one - other).norm() / one.norm()) < 1e-5


@pytest.mark.robustness
def test_messages_that_masks_cannot_sum_are_refused():
    summation = MaskedSum(10.0)
    one, late = Message(1, 0, {"x": torch.ones(3)}), Message(1, 0, {"x": torch.ones(3)}, clients=2)
    with pytest.raises(RunError, match="round 1: one client has sent"):
        summation.total([one], round=1, step=0)
    with pytest.raises(ConfigError, match="late='count': the masks of a round are opened in it"):
        summation.total([one, late], round=1, step=0)
    with pytest.raises(RunError, match="beyond the bound of 10"):
        summation.total([one, Message(1, 0, {"x": torch.full((3,), 11.0)})], round=1, step=0)
