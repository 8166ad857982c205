"""CUDA graphs of a training step: what is recorded and when, on stand-ins for CUDA, and on CUDA where there is one."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import pytest
import torch
from settings import train_config

from mrl.data.synthetic import planted_interactions
from mrl.kernels.cuda_graph import WARM_STEPS, GraphStep
from mrl.trainer import Trainer

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def work(users: torch.Tensor, items: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return (users * items).sum(), users - items


class FakeCuda:
    """In place of CUDA: counts the steps, and replays by computing anew."""

    def __init__(self, monkeypatch, *, fails: bool = False):
        self.run = self.replayed = 0
        self.recording = False
        self.new_generators: list[torch.Generator] = []
        self.registered: list[torch.Generator] = []
        fake = self

        class Graph:
            def register_generator_state(self, generator: torch.Generator) -> None:
                fake.registered.append(generator)

            def replay(self) -> None:
                fake.replayed += 1
                for place, value in zip(fake.graph.outputs, work(*fake.graph.inputs), strict=True):
                    place.copy_(value)

        @contextmanager
        def graph(_: Graph, stream: object):
            self.recording = True
            yield
            self.recording = False
            if fails:
                raise RuntimeError("operation not permitted when stream is capturing\nand much more")

        idle = SimpleNamespace(wait_stream=lambda _: None, device="cpu")
        self.streams: list[object] = []
        cuda = SimpleNamespace(
            Stream=lambda _: idle, current_stream=lambda _: idle, set_stream=self.streams.append,
            stream=lambda _: nullcontext(), CUDAGraph=Graph, graph=graph,
        )  # fmt: skip
        monkeypatch.setattr("mrl.kernels.cuda_graph.torch", SimpleNamespace(cuda=cuda, Generator=torch.Generator))
        self.generator = torch.Generator().manual_seed(5)
        self.graph = GraphStep(self.step, 8, self.generator, self.new_generators.append)

    def step(self, users: torch.Tensor, items: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.run += not self.recording
        return tuple(value.clone() for value in work(users, items))

    def check(self, rows: int) -> None:
        batch = torch.randn(rows), torch.randn(rows)
        for value, expected in zip(self.graph(*batch), work(*batch), strict=True):
            assert torch.equal(value, expected)


def test_steps_are_recorded_after_some_and_replayed_with_each_batch(monkeypatch) -> None:
    fake = FakeCuda(monkeypatch)
    for _ in range(WARM_STEPS):
        fake.check(8)
    assert (fake.run, fake.replayed) == (WARM_STEPS, 0) and not fake.registered
    for _ in range(3):
        fake.check(8)
    assert (fake.run, fake.replayed) == (WARM_STEPS, 3) and fake.registered == [fake.generator]


def test_a_batch_of_another_size_runs_as_it_is(monkeypatch) -> None:
    fake = FakeCuda(monkeypatch)
    for rows in [8] * WARM_STEPS + [5, 8, 5, 8]:  # also where it comes when one is to be recorded
        fake.check(rows)
    assert (fake.run, fake.replayed) == (WARM_STEPS + 2, 2)


def test_where_recording_fails_steps_go_on_with_the_same_numbers(monkeypatch) -> None:
    fake = FakeCuda(monkeypatch, fails=True)
    for _ in range(WARM_STEPS):
        fake.check(8)
    with pytest.warns(UserWarning, match="run slower, not as a CUDA graph: operation not permitted when stream is"):
        fake.check(8)
    fake.check(8)
    assert (fake.run, fake.replayed) == (WARM_STEPS + 2, 0)
    assert len(fake.streams) == 1  # back from the one that was recorded
    (fresh,) = fake.new_generators
    assert fresh is not fake.generator
    assert torch.equal(torch.rand(4, generator=fresh), torch.rand(4, generator=torch.Generator().manual_seed(5)))


def trainer(device: str, **changes) -> Trainer:
    data = planted_interactions(num_users=400, num_items=150, interactions=8000, branching=(4, 4), seed=0)
    base = {"recipe": "mrl4rec", "dataset": "planted", "widths": (2, 4, 12), "batch_size": 512, "candidates": 4}
    return Trainer(train_config(**base | changes), data.train, torch.device(device))


def test_on_a_cpu_nothing_is_recorded() -> None:
    assert trainer("cpu").graph is None


@pytest.mark.cuda
@needs_cuda
@pytest.mark.parametrize("changes", [{}, {"backbone": "lightgcn"}, {"rule": "mix"}, {"rule": "ahns"}], ids=str)
def test_a_recorded_step_learns_what_single_steps_learn(changes: dict) -> None:
    recorded, single = trainer("cuda", **changes), trainer("cuda", **changes)
    single.graph = None
    for _ in range(3):
        one, other = recorded.run_epoch(), single.run_epoch()
        assert one[0] == pytest.approx(other[0], rel=1e-3) and one[1] == pytest.approx(other[1], rel=1e-3)
    assert recorded.graph.graph is not None
    for table, expected in zip(recorded.vectors(), single.vectors(), strict=True):
        torch.testing.assert_close(table, expected, rtol=0, atol=1e-3)


@pytest.mark.cuda
@needs_cuda
@pytest.mark.parametrize("changes", [{"rule": "cns"}, {"rule": "dens"}, {"levels_per_step": 1}], ids=str)
def test_steps_that_change_on_the_way_are_not_recorded(changes: dict) -> None:
    changing = trainer("cuda", **changes)
    changing.run_epoch()
    assert changing.graph is None


@pytest.mark.cuda
@needs_cuda
def test_a_state_that_is_loaded_is_the_one_that_is_trained_on() -> None:
    one = trainer("cuda")
    one.run_epoch()
    state = {name: value.clone() for name, value in one.state().items()}
    expected = one.run_epoch()
    one.load_state(state)
    assert one.run_epoch()[0] == pytest.approx(expected[0], rel=1e-3)
