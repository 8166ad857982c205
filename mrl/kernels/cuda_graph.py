"""A training step recorded once as a CUDA graph and replayed: a step of a small model is some hundred kernels, and
starting them one by one takes the host longer than the GPU needs to run them.

The first steps run as they are, since libraries set themselves up in them. Then one is recorded over inputs that stay
in place, into which every later batch of the same size is copied. Random numbers go on as they would without, since
the generator is registered with the graph. A batch of another size, the last of an epoch, runs as it is.

A recording is compared with the step as it is before it counts (`mrl.kernels.fast_paths`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from mrl.kernels import fast_paths
from mrl.kernels.fast_paths import CUDA_GRAPH

Step = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

WARM_STEPS = 3  # steps before one is recorded


class GraphStep:
    """step(users (B,), items (B,)) -> loss, terms: the same, faster; what it returns is overwritten by the next call.

    The step must do all its work on the device, and the same work each time. size: B of the batches that are replayed;
    others run as they are. generator: what the step draws from. set_generator: takes the generator to go on with where
    recording fails or a replay differs, which a warning tells; steps then run as they are.
    state: gives the tensors that a step changes, in place: the parameters and what the optimiser keeps of them.
    """

    def __init__(
        self,
        step: Step,
        size: int,
        generator: torch.Generator,
        set_generator: Callable[[torch.Generator], None],
        state: Callable[[], Mapping[str, Tensor]],
    ):
        self.step, self.size, self.generator, self.set_generator = step, size, generator, set_generator
        self.state = state
        self.stream = torch.cuda.Stream(generator.device)
        self.warm_steps = 0
        self.failed = False
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        if self.failed or len(users) != self.size:
            return self.step(users, items)
        if self.warm_steps < WARM_STEPS:
            self.warm_steps += 1
            return self._warm_up(users, items)
        if self.graph is None and not self._begin(users, items):
            return self.step(users, items)
        return self._replay(users, items)

    def _replay(self, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        for place, batch in zip(self.inputs, (users, items), strict=True):
            place.copy_(batch)
        self.graph.replay()
        return self.outputs

    def _warm_up(self, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """On the stream that is recorded later, which is where autograd has to have been before."""
        self.stream.wait_stream(torch.cuda.current_stream(self.stream.device))
        with torch.cuda.stream(self.stream):
            result = self.step(users, items)
        torch.cuda.current_stream(self.stream.device).wait_stream(self.stream)
        return result

    def _begin(self, users: Tensor, items: Tensor) -> bool:
        """Record a step and compare it; whether to replay it from now on. Nothing has been trained by that."""
        random, stream = self.generator.get_state(), torch.cuda.current_stream(self.stream.device)
        try:
            self._record(users, items)
            agrees = self._agrees(users, items, random)
        except RuntimeError as error:
            torch.cuda.set_stream(stream)  # a recording that cannot be ended does not come back from its own
            fast_paths.turn_off(CUDA_GRAPH, fast_paths.reason(error))
            agrees = False
        if not agrees:
            self.failed, self.graph, self.inputs, self.outputs = True, None, (), ()
            generator = torch.Generator(self.generator.device)  # the other may be left as if still being recorded
            generator.set_state(random)
            self.set_generator(generator)
        return agrees

    def _record(self, users: Tensor, items: Tensor) -> None:
        graph = torch.cuda.CUDAGraph()
        self.inputs = users.clone(), items.clone()
        graph.register_generator_state(self.generator)
        with torch.cuda.graph(graph, stream=self.stream):  # recorded, not run
            self.outputs = self.step(*self.inputs)
        self.graph = graph

    def _agrees(self, users: Tensor, items: Tensor, random: Tensor) -> bool:
        """Whether a replay learns from this batch what the step learns; whatever they change is put back."""
        tensors = list(self.state().values())
        before = [tensor.clone() for tensor in tensors]

        def outcome(step: Step) -> fast_paths.Outcome:
            try:
                loss, terms = step(users, items)
                moves = [tensor - start for tensor, start in zip(tensors, before, strict=True)]
                return torch.cat([loss.reshape(1), terms]), moves
            finally:
                for tensor, start in zip(tensors, before, strict=True):
                    tensor.copy_(start)
                self.generator.set_state(random)

        return fast_paths.check(
            CUDA_GRAPH, lambda: outcome(self._replay), lambda: outcome(self.step), fast_paths.step_difference
        )
