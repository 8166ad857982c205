"""Properties that hold for any numbers, beside those that the tests of each module have."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from settings import train_config

from mrl import NegativeSampler, NestedLoss, evaluate
from mrl.data.interactions import Interactions, Positives
from mrl.trainer import Trainer

LOSSES = ("bpr", "bce", "cml", "dau", "uib")
seeds = st.integers(0, 10**6)


def positives(seed: int, share: float, num_users: int = 12, num_items: int = 25) -> Positives:
    return Positives.from_pairs(
        *np.nonzero(np.random.default_rng(seed).random((num_users, num_items)) < share), num_users, num_items
    )


@settings(max_examples=30)
@given(seeds, st.floats(0.05, 0.9), st.booleans())
def test_recall_and_hits_grow_with_k(seed, share, tied):
    train, test = positives(seed, share / 2), positives(seed + 1, share)
    test = Positives.from_pairs(
        *np.array(
            [p for p in zip(test.users.tolist(), test.items.tolist(), strict=True) if p[1] not in train.of(p[0])]
            or [(0, 0)]
        ).T,
        12,
        25,
    )
    generator = torch.Generator().manual_seed(seed)
    users, items = (torch.randn(count, 6, generator=generator) for count in (12, 25))
    items = items.round() if tied else items
    data = Interactions("any", train, Positives.empty(12, 25), test, np.arange(12), np.arange(25))
    table = evaluate(users, items, data, widths=(1, 4, 6), ks=range(1, 26)).table.sort("k")
    for metric in ("recall", "hit"):
        for width in (1, 4, 6):
            assert table.filter(metric=metric, width=width)["value"].is_sorted()


@settings(max_examples=30)
@given(seeds, st.floats(0.1, 0.95), st.sampled_from(("rns", "dns", "dns_mn", "cns", "ahns", "dens")), st.booleans())
def test_no_rule_ever_picks_a_positive(seed, share, rule, nested):
    known = positives(seed, share)
    generator = torch.Generator().manual_seed(seed)
    sampler = NegativeSampler(known, (2, 6), rule=rule, candidates=4, nested=nested, topk=2, generator=generator)
    rows = sampler.trainable.nonzero().flatten()
    users, items = (torch.randn(count, 6, generator=generator) for count in (12, 25))
    anchors = users[rows]
    liked = torch.randn(len(rows), 6, generator=generator)
    if not len(rows):
        return
    drawn = sampler(rows, anchors, liked, items, progress=0.5, generator=generator)
    for row, picked in zip(rows.tolist(), drawn.items.flatten(1).tolist(), strict=True):
        assert not set(picked) & set(known.of(row).tolist())


@settings(max_examples=40)
@given(seeds, st.sampled_from(LOSSES))
def test_one_width_is_the_plain_loss_and_the_last_weight_alone_the_full_width(seed, kind):
    """Values and gradients."""
    generator = torch.Generator().manual_seed(seed)
    base = [torch.randn(*size, generator=generator) for size in ((7, 6), (7, 6), (7, 3, 6))]
    results = []
    for widths, weights, level in (((6,), None, slice(-1, None)), ((2, 3, 6), (0, 0, 1), slice(None))):
        users, liked, negatives = (tensor.clone().requires_grad_() for tensor in base)
        loss = NestedLoss(widths, weights or (), kind=kind)(users, liked, negatives[:, level])[0]
        loss.backward()
        results.append(
            (loss.detach(), users.grad, liked.grad, None if negatives.grad is None else negatives.grad[:, -1])
        )
    for one, other in zip(*results, strict=True):
        if one is not None and other is not None:
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize("backbone", ["mf", "lightgcn"])
def test_weight_on_the_last_width_alone_trains_the_full_width_model(backbone):
    """The same negatives for both, drawn without looking at widths: then three epochs give the same weights."""
    known = positives(0, 0.3)
    trained = []
    for widths, weights in (((6,), ()), ((2, 3, 6), (0.0, 0.0, 1.0))):
        config = train_config(
            widths=widths, level_weights=weights, rule="rns", nested_negatives=False, candidates=1, backbone=backbone,
            batch_size=16, learning_rate=0.05, device="cpu",
        )  # fmt: skip
        trainer = Trainer(config, known, torch.device("cpu"))
        for _ in range(3):
            trainer.run_epoch()
        trained.append(trainer.vectors())
    for one, other in zip(*trained, strict=True):
        torch.testing.assert_close(one, other)
