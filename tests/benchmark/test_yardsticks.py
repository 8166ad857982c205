"""The yardsticks train and measure the same things as the project does, only in their own ways."""

from __future__ import annotations

import pytest
import torch

from mrl.benchmark.yardsticks import STYLES, PlainModel, evaluate_plain, evaluate_published
from mrl.data.synthetic import planted_interactions
from mrl.evaluation.evaluate import evaluate
from mrl.loss import NestedLoss, l2_penalty
from mrl.model import LightGCN

WIDTHS = (2, 4, 8)


@pytest.fixture(scope="module")
def data():
    return planted_interactions(60, 64, 1500, (2, 2), seed=0)


@pytest.mark.parametrize("style", STYLES)
def test_no_candidate_is_a_positive_and_all_others_come_up(style: str, data) -> None:
    model = PlainModel(data.train, WIDTHS, style=style, candidates=50)
    users = torch.arange(20)
    drawn = model.draw(users, 3)
    assert drawn.shape == (20, 3, 50)
    for user, rows in zip(users.tolist(), drawn, strict=True):
        met = set(data.train.of(user).tolist())
        assert not met & set(rows.flatten().tolist())
        assert len(set(rows.flatten().tolist())) > 0.8 * (data.num_items - len(met))


@pytest.mark.parametrize("hops", [0, 2])
@pytest.mark.parametrize("nested", [True, False])
def test_a_step_has_the_loss_and_the_gradients_of_the_project(nested: bool, hops: int, data, monkeypatch) -> None:
    model = PlainModel(data.train, WIDTHS, candidates=1, nested=nested, hops=hops, l2=0.1)
    rows = torch.randint(data.num_items, (30, 3 if nested else 1), generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(model, "draw", lambda users, levels: rows.unsqueeze(-1))
    graph = LightGCN(data.train, 8, hops=hops)
    graph.load_state_dict({"users": model.users.detach().clone(), "items": model.items.detach().clone()})
    users, items = data.train.users.long()[:30], data.train.items.long()[:30]
    loss = model.step(users, items)

    p, q = graph()
    expected, _ = NestedLoss(WIDTHS)(p[users], q[items], q[rows])
    expected = expected + l2_penalty(0.1, graph.users[users], graph.items[items], graph.items[rows])
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(model.users.grad, graph.users.grad, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(model.items.grad, graph.items.grad, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("style", STYLES)
def test_training_takes_as_many_batches_as_it_is_told(style: str, data) -> None:
    model = PlainModel(data.train, WIDTHS, style=style, candidates=4, learning_rate=0.05)
    assert model.run(100, 2) == 200
    assert model.run(100) == len(data.train)
    first = model.step(data.train.users.long(), data.train.items.long())
    for _ in range(20):
        model.run(100)
    assert model.step(data.train.users.long(), data.train.items.long()) < first


def test_both_ways_to_evaluate_find_what_the_project_finds(data) -> None:
    generator = torch.Generator().manual_seed(0)
    users, items = (torch.randn(rows, 8, generator=generator) for rows in (data.num_users, data.num_items))
    expected = evaluate(users, items, data, widths=(4,), ks=(10, 20, 50))
    plain = evaluate_plain(users, items, data, 4, chunk=7)
    rows = data.test.counts.nonzero()[:, 0].tolist()
    published = evaluate_published(users, items, data, 4, rows)
    for (metric, k), value in plain.items():
        assert value == pytest.approx(expected.value(f"{metric}@{k}"), abs=1e-5)
        assert published[metric, k] == pytest.approx(value, abs=1e-5)
