"""Messages to Flower's records and back, and what the Strategy sends to nodes of each width."""

from __future__ import annotations

import pytest

pytest.importorskip("flwr", reason="Flower is not installed (extra federated)")

import torch
from flwr.app import ArrayRecord, ConfigRecord, RecordDict
from flwr.app import Message as FlowerMessage
from in_process import be_a_server

from mrl.errors import RunError
from mrl.federated import FederatedConfig, Message
from mrl.flower.strategy import ColumnSums, from_records, to_records

NODES = {11: 2, 12: 4, 13: 4}
CONFIG = FederatedConfig(widths=[2, 4], alpha0=0.1, start_rounds=1, rounds=2)


def test_messages_survive_the_way():
    sent = Message(3, 1, {"items": torch.randn(4, 6).T, "count": torch.arange(3.0)})
    got = from_records(to_records(sent, settings="{}"))
    assert (got.round, got.step) == (3, 1) and list(got.tensors) == ["items", "count"]
    for name, tensor in sent.tensors.items():
        assert torch.equal(got.tensors[name], tensor)


def test_a_message_of_another_app_is_refused():
    with pytest.raises(RunError, match="of another app"):
        from_records(RecordDict({"arrays": ArrayRecord()}))


def test_each_node_is_sent_its_columns_and_the_narrow_ones_skip_blocks_beyond_theirs():
    be_a_server()
    strategy = ColumnSums(CONFIG, 5, NODES, "{}")
    assert strategy.plan == [(1, 0), (2, 0), (2, 1)]
    sent = [
        {each.metadata.dst_node_id: from_records(each.content).tensors for each in messages}
        for messages in (strategy.configure_train(n, ArrayRecord(), ConfigRecord(), None) for n in (1, 2, 3))
    ]
    assert {node: tensors["directions"].shape[1] for node, tensors in sent[0].items()} == NODES
    assert {node: tensors["items"].shape[1] for node, tensors in sent[1].items()} == NODES
    assert {node: tensors["items"].shape[1] for node, tensors in sent[2].items()} == {12: 2, 13: 2}


def test_a_step_without_any_message_is_an_error():
    be_a_server()
    strategy = ColumnSums(CONFIG, 5, NODES, "{}")
    (first, *_) = strategy.configure_train(1, ArrayRecord(), ConfigRecord(), None)
    late = FlowerMessage(to_records(Message(7, 0, {"directions": torch.zeros(5, 2)})), reply_to=first)
    with pytest.raises(RunError, match="Flower round 1: no client sent anything that can be counted"):
        strategy.aggregate_train(1, [late])
