"""A training step recorded once as a CUDA graph and replayed: a step of a small model is some hundred kernels, and
starting them one by one takes the host longer than the GPU needs to run them.

The first steps run as they are, since libraries set themselves up in them. Then one is recorded over inputs that stay
in place, into which every later batch of the same size is copied. Random numbers go on as they would without, since
the generator is registered with the graph. A batch of another size, the last of an epoch, runs as it is.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

Step = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

WARM_STEPS = 3  # steps before one is recorded


class GraphStep:
    """step(users (B,), items (B,)) -> loss, terms: the same, faster; what it returns is overwritten by the next call.

    The step must do all its work on the device, and the same work each time. size: B of the batches that are replayed;
    others run as they are. generator: what the step draws from. set_generator: takes the generator to go on with where
    recording fails, which a warning tells; steps then run as they are.
    """

    def __init__(
        self, step: Step, size: int, generator: torch.Generator, set_generator: Callable[[torch.Generator], None]
    ):
        self.step, self.size, self.generator, self.set_generator = step, size, generator, set_generator
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
        if self.graph is None and not self._record(users, items):
            return self.step(users, items)
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

    def _record(self, users: Tensor, items: Tensor) -> bool:
        self.inputs = users.clone(), items.clone()
        state, graph = self.generator.get_state(), torch.cuda.CUDAGraph()
        stream = torch.cuda.current_stream(self.stream.device)
        graph.register_generator_state(self.generator)
        try:
            with torch.cuda.graph(graph, stream=self.stream):  # recorded, not run
                self.outputs = self.step(*self.inputs)
        except RuntimeError as error:
            torch.cuda.set_stream(stream)  # a recording that cannot be ended does not come back from its own
            reason = str(error.__context__ or error).partition("\n")[0]
            warnings.warn(f"steps on {self.generator.device} run slower, not as a CUDA graph: {reason}", stacklevel=3)
            self.failed = True
            generator = torch.Generator(self.generator.device)  # the other may be left as if still being recorded
            generator.set_state(state)
            self.set_generator(generator)
            return False
        self.graph = graph
        return True
