from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mrl.errors import ConfigError
from mrl.federated import METHODS, Message, PlainSum, Server, Simulation, Uploads, make_method


def test_a_method_that_is_not_there_is_refused(config, monkeypatch):
    monkeypatch.delitem(METHODS, "closed_form")
    with pytest.raises(ConfigError, match="method='closed_form': is not there"):
        make_method(config(), 40)


def test_a_server_is_not_changed_but_made_anew():
    server = Server(1, {"items": torch.zeros(3, 2)})
    other = server.with_tensors(count=torch.ones(3))
    assert "count" not in server.tensors and other.items is server.items and other.round == 1


def test_one_message_is_the_sum_without_the_others():
    rows = torch.arange(6.0).reshape(3, 2)
    uploads = Uploads(rows.norm(dim=1), lambda scale: Message(1, 0, {"sum": scale @ rows}))
    assert uploads.alone(1).tensors["sum"].tolist() == [2.0, 3.0]


def test_another_summation_clips_every_client_and_adds_noise(data, config):
    """What a protection needs: each client's message scaled by its norm, and the sum changed before the server."""
    seen = []

    class Clipped(PlainSum):
        def scale(self, uploads):
            seen.append(uploads.norms)
            return (1.0 / uploads.norms).clamp(max=1.0)

        def total(self, messages, *, round, step, missing=0):
            total = super().total(messages, round=round, step=step)
            return replace(total, tensors={name: tensor + 0.0 for name, tensor in total.tensors.items()})

    simulation = Simulation(config(max_norm=1.001), data.train, summation=Clipped())
    rows = [simulation.round() for _ in range(4)]
    assert max(float(norms.max()) for norms in seen) > 1.001
    assert [row["refused"] for row in rows] == [0] * 4  # no message is larger than 1 after it


def test_messages_one_by_one_make_the_same_sum(data, config):
    class Apart(PlainSum):
        def __init__(self):
            super().__init__(one_by_one=True)
            self.counts = []

        def total(self, messages, *, round, step, missing=0):
            self.counts.append([message.clients for message in messages])
            return super().total(messages, round=round, step=step)

    apart, together = Apart(), Simulation(config(), data.train)
    simulation = Simulation(config(), data.train, summation=apart)
    for _ in range(4):
        one, other = simulation.round(), together.round()
        assert one["bytes_up"] == other["bytes_up"]
    assert apart.counts[0] == [1] * 90
    torch.testing.assert_close(simulation.server.items, together.server.items, rtol=1e-4, atol=1e-5)
