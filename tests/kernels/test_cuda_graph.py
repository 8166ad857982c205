"""CUDA graphs of a training step: what is recorded and when, on stand-ins for CUDA, and on CUDA where there is one."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import pytest
import torch
from settings import train_config

from mrl.data.synthetic import planted_interactions
from mrl.kernels.cuda_graph import WARM_STEPS, GraphStep
from mrl.kernels.fast_paths import check_anew, turn_off, verdicts
from mrl.trainer import Trainer

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.fixture(autouse=True)
def run():
    with check_anew():
        yield


class FakeCuda:
    """In place of CUDA: a model that learns from draws, whose steps are counted, and replayed by taking them anew.

    wrong: what replays get wrong. fails: whether recording does.
    """

    def __init__(self, monkeypatch, *, wrong: str = "", fails: bool = False):
        self.run = self.replayed = 0
        self.recording = False
        self.registered: list[torch.Generator] = []
        self.generator = torch.Generator().manual_seed(5)
        self.table, self.moments = torch.zeros(30), torch.zeros(30)
        self.streams: list[object] = []
        use_stand_ins(monkeypatch, self, wrong, fails)
        state = {"table": self.table, "moments": self.moments}
        self.graph = GraphStep(self.step, 8, self.generator, self.set_generator, lambda: state)

    def set_generator(self, generator: torch.Generator) -> None:
        self.generator = generator

    def step(self, users: torch.Tensor, items: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.run += not self.recording
        if self.recording:
            return torch.zeros(()), torch.zeros(2)
        gradient = torch.rand(30, generator=self.generator) * users.sum() - items.sum()
        self.moments.mul_(0.9).add_(gradient)
        self.table.sub_(self.moments)
        return gradient.sum(), torch.stack([users.sum(), items.sum()])


def use_stand_ins(monkeypatch, fake: FakeCuda, wrong: str = "", fails: bool = False) -> None:
    """Let `mrl.kernels.cuda_graph` find graphs that replay by calling `fake.step`."""

    class Graph:
        def register_generator_state(self, generator: torch.Generator) -> None:
            fake.registered.append(generator)

        def replay(self) -> None:
            fake.replayed += 1
            if wrong == "raises":
                raise RuntimeError("CUDA error: an illegal instruction was encountered\nand much more")
            if wrong == "memory":
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
            batch = [torch.ones(8), torch.ones(8)] if wrong == "batch" else fake.graph.inputs
            if wrong == "draws":
                torch.rand(3, generator=fake.generator)
            run, before = fake.run, fake.table.clone()
            result = fake.step(*batch)
            fake.run = run
            if wrong == "update":
                fake.table.copy_(before)
            for place, value in zip(fake.graph.outputs, result, strict=True):
                place.copy_(value)
            if wrong == "loss":
                fake.graph.outputs[0].mul_(1.01)

    @contextmanager
    def graph(_: Graph, stream: object):
        fake.recording = True
        yield
        fake.recording = False
        if fails:
            raise RuntimeError("operation not permitted when stream is capturing\nand much more")

    idle = SimpleNamespace(wait_stream=lambda _: None, device="cpu")
    cuda = SimpleNamespace(
        Stream=lambda _: idle, current_stream=lambda _: idle, set_stream=fake.streams.append,
        stream=lambda _: nullcontext(), CUDAGraph=Graph, graph=graph,
    )  # fmt: skip
    stand_in = SimpleNamespace(cuda=cuda, Generator=torch.Generator, cat=torch.cat)
    monkeypatch.setattr("mrl.kernels.cuda_graph.torch", stand_in)


def train(fake: FakeCuda, sizes: list[int], step=None) -> list[torch.Tensor]:
    """What steps on random batches return, and what they leave behind."""
    generator = torch.Generator().manual_seed(1)
    results = []
    for size in sizes:
        batch = torch.randn(size, generator=generator), torch.randn(size, generator=generator)
        results += [value.clone() for value in (step or fake.graph)(*batch)]
    return [*results, fake.table, fake.moments, fake.generator.get_state()]


def assert_trained_as_without(monkeypatch, results: list[torch.Tensor], sizes: list[int]) -> None:
    """To the bit."""
    single = FakeCuda(monkeypatch)
    for value, wanted in zip(results, train(single, sizes, single.step), strict=True):
        assert torch.equal(value, wanted)


def test_steps_are_recorded_after_some_compared_once_and_replayed_with_each_batch(monkeypatch) -> None:
    fake = FakeCuda(monkeypatch)
    train(fake, [8] * WARM_STEPS)
    assert (fake.run, fake.replayed) == (WARM_STEPS, 0) and not fake.registered and verdicts() == {}
    train(fake, [8] * 3)
    assert (fake.run, fake.replayed) == (WARM_STEPS + 1, 3 + 1) and fake.registered == [fake.generator]
    assert verdicts() == {"cuda_graph": "used"}


def test_a_batch_of_another_size_runs_as_it_is(monkeypatch) -> None:
    fake = FakeCuda(monkeypatch)
    train(fake, [8] * WARM_STEPS + [5, 8, 5, 8])  # also where it comes when one is to be recorded
    assert (fake.run, fake.replayed) == (WARM_STEPS + 2 + 1, 2 + 1)


def test_comparing_changes_nothing_of_the_training(monkeypatch) -> None:
    sizes = [8] * 6 + [5, 8]
    assert_trained_as_without(monkeypatch, train(FakeCuda(monkeypatch), sizes), sizes)


def test_where_recording_fails_steps_go_on_with_the_same_numbers(monkeypatch) -> None:
    fake, sizes = FakeCuda(monkeypatch, fails=True), [8] * (WARM_STEPS + 2)
    first = fake.generator
    with pytest.warns(UserWarning, match="^cuda_graph is off, so training .*: operation not permitted when stream is"):
        results = train(fake, sizes)
    assert (fake.run, fake.replayed) == (WARM_STEPS + 2, 0)
    assert len(fake.streams) == 1  # back from the one that was recorded
    assert fake.generator is not first
    assert_trained_as_without(monkeypatch, results, sizes)


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ("loss", "the loss is off by"),
        ("batch", "the loss is off by"),
        ("draws", "the loss is off by"),
        ("update", "a step moves the model elsewhere"),
        ("raises", "CUDA error: an illegal instruction was encountered"),
        ("memory", "CUDA out of memory"),
    ],
)
def test_where_a_replay_is_wrong_steps_go_on_as_if_it_had_not_been(monkeypatch, wrong: str, why: str) -> None:
    sizes = [8] * (WARM_STEPS + 3)
    fake = FakeCuda(monkeypatch, wrong=wrong)
    with pytest.warns(UserWarning) as warned:
        results = train(fake, sizes)
    (message,) = [str(each.message) for each in warned]
    assert message.startswith(f"cuda_graph is off, so training steps are started kernel by kernel: {why}")
    assert verdicts()["cuda_graph"].startswith(f"off: {why}") and "\n" not in message
    assert fake.replayed == 1 and fake.graph.graph is None
    assert_trained_as_without(monkeypatch, results, sizes)


def trainer(device: str, **changes) -> Trainer:
    data = planted_interactions(num_users=400, num_items=150, interactions=8000, branching=(4, 4), seed=0)
    base = {"recipe": "mrl4rec", "dataset": "planted", "widths": (2, 4, 12), "batch_size": 512, "candidates": 4}
    return Trainer(train_config(**base | changes), data.train, torch.device(device))


def test_on_a_cpu_nothing_is_recorded_or_compared() -> None:
    one = trainer("cpu")
    one.run_epoch()
    assert one.graph is None and verdicts() == {}


class FakeTrainer(FakeCuda):
    """A real trainer whose steps are replayed by taking them anew."""

    def __init__(self, monkeypatch, *, wrong: str = "", **changes):
        super().__init__(monkeypatch, wrong=wrong)
        self.trainer = trainer("cpu", **changes)
        self.generator, self.table = self.trainer.generator, self.trainer.model.users.detach()
        self.trainer.graph = self.graph = GraphStep(
            self.step, self.trainer.batch_size, self.generator, self.set_generator, self.trainer._tensors
        )

    def set_generator(self, generator: torch.Generator) -> None:
        self.generator = self.trainer.generator = generator

    def step(self, users: torch.Tensor, items: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.run += not self.recording
        return (torch.zeros(()), torch.zeros(3)) if self.recording else self.trainer._step(users, items, None)


each_model = pytest.mark.parametrize(
    "changes", [{"loss": "bce"}, {"loss": "cml"}, {"backbone": "lightgcn"}, {"rule": "mix"}], ids=str
)


@each_model
def test_a_trainer_whose_step_is_compared_learns_the_same(monkeypatch, changes: dict) -> None:
    compared, single = FakeTrainer(monkeypatch, **changes), trainer("cpu", **changes)
    for _ in range(2):
        assert compared.trainer.run_epoch() == single.run_epoch()
    assert verdicts() == {"cuda_graph": "used"} and compared.replayed > 1
    for name, value in single.state().items():
        assert torch.equal(compared.trainer.state()[name], value), name


@each_model
@pytest.mark.parametrize("wrong", ["draws", "update"])
def test_a_trainer_notices_other_negatives_and_goes_on_without_a_graph(monkeypatch, changes: dict, wrong: str) -> None:
    compared, single = FakeTrainer(monkeypatch, wrong=wrong, **changes), trainer("cpu", **changes)
    with pytest.warns(UserWarning, match="cuda_graph is off"):
        losses = compared.trainer.run_epoch()
    assert losses == single.run_epoch() and compared.replayed == 1
    for name, value in single.state().items():
        assert torch.equal(compared.trainer.state()[name], value), name


@pytest.mark.cuda
@needs_cuda
@pytest.mark.parametrize("changes", [{}, {"backbone": "lightgcn"}, {"rule": "mix"}, {"rule": "ahns"}], ids=str)
def test_a_recorded_step_learns_what_single_steps_learn(changes: dict) -> None:
    recorded, single = trainer("cuda", **changes), trainer("cuda", **changes)
    single.graph = None
    for _ in range(3):
        one, other = recorded.run_epoch(), single.run_epoch()
        assert one[0] == pytest.approx(other[0], rel=1e-3) and one[1] == pytest.approx(other[1], rel=1e-3)
    assert recorded.graph.graph is not None and verdicts()["cuda_graph"] == "used"
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


@pytest.mark.cuda
@needs_cuda
def test_comparing_changes_nothing_of_the_training_on_a_gpu() -> None:
    compared, single = trainer("cuda"), trainer("cuda")
    single.graph = None
    users, items = (rows[:512] for rows in (compared.users, compared.items))
    for _ in range(WARM_STEPS):
        compared.graph(users, items)
        single._step(users, items, None)
    assert compared.graph._begin(users, items)
    for name, value in single.state().items():
        if name != "epoch":
            torch.testing.assert_close(compared.state()[name], value, rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.cuda
@needs_cuda
def test_a_wrong_graph_on_a_gpu_is_dropped_and_steps_go_on() -> None:
    one, single = trainer("cuda"), trainer("cuda")
    single.graph = None
    replay = one.graph._replay

    def wrong(users: torch.Tensor, items: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return replay(users.flip(0), items)

    one.graph._replay = wrong
    with pytest.warns(UserWarning, match="^cuda_graph is off, so training steps are started kernel by kernel: "):
        loss = one.run_epoch()[0]
    assert loss == pytest.approx(single.run_epoch()[0], rel=1e-3) and one.graph.graph is None


@pytest.mark.cuda
@needs_cuda
def test_no_graph_is_made_once_one_was_wrong() -> None:
    with pytest.warns(UserWarning):
        turn_off("cuda_graph", "broken")
    assert trainer("cuda").graph is None
