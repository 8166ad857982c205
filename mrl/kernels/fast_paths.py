"""The fast paths of a GPU: each is compared with the plain path once a run, on a real batch, and dropped if it differs.

    cuda_graph            a training step is replayed as one CUDA graph, not started kernel by kernel
    bfloat16_candidates   the sampler scores candidates in bfloat16, not float32
    tf32_shortlists       rankings shortlist items by sums of factors rounded to TF32, not by float32 sums

Hardware, drivers and libraries differ, and a wrong number looks like any other. Where a path differs or raises, one
warning says which and why, and the plain path is used for the rest of the run. A run is what a `check_anew` block
spans; outside such a block, all that a process does counts as one run. On a CPU no path is fast, so nothing is checked.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

import torch
from torch import Tensor

CUDA_GRAPH, BFLOAT16_CANDIDATES, TF32_SHORTLISTS = "cuda_graph", "bfloat16_candidates", "tf32_shortlists"
USED = "used"
_INSTEAD = {
    CUDA_GRAPH: "training steps are started kernel by kernel",
    BFLOAT16_CANDIDATES: "candidates are scored in float32",
    TF32_SHORTLISTS: "items are shortlisted by float32 sums",
}
# Sums in another order agree to about six digits.
_LOSS_TOLERANCE = 1e-4
# The loss of a new model hardly tells one draw of negatives from another; how the step moves it does. Relative to the
# length of a move, rounding makes 1e-6, and another draw at least 0.3 of the first moments, with every loss and rule
# that was measured. In between is what a few near ties make that rounding decides.
_MOVE_TOLERANCE = 0.1
# bfloat16 rounds by up to 2^-8: both factors of a product, then the sum, and where it is made in parts these, too.
_BFLOAT16_TOLERANCE = 4 * 2.0**-8

_of_process: dict[str, str] = {}
_verdicts: ContextVar[dict[str, str]] = ContextVar("verdicts", default=_of_process)
T = TypeVar("T")


@contextmanager
def check_anew() -> Iterator[None]:
    """A run: in this block, and in this thread, every fast path is checked anew when it is first wanted."""
    token = _verdicts.set({})
    try:
        yield
    finally:
        _verdicts.reset(token)


def verdicts() -> dict[str, str]:
    """Path -> `used`, or `off: <why>`, for environment.json. A path that the run had no use for is not there."""
    return dict(_verdicts.get())


def is_off(path: str) -> bool:
    """Whether the path was dropped in this run."""
    return _verdicts.get().get(path, USED) != USED


def turn_off(path: str, why: str) -> None:
    """Use the plain path for the rest of the run; the first time, a warning says so."""
    if not is_off(path):
        _verdicts.get()[path] = f"off: {why}"
        warnings.warn(f"{path} is off, so {_INSTEAD[path]}: {why}", stacklevel=2)


def is_usable(
    path: str, fast: Callable[[], T], plain: Callable[[], T], difference: Callable[[T, T], str | None]
) -> bool:
    """Whether to take the fast path: checked when first asked in a run (`check`), remembered after that."""
    known = _verdicts.get()
    return known[path] == USED if path in known else check(path, fast, plain, difference)


def check(path: str, fast: Callable[[], T], plain: Callable[[], T], difference: Callable[[T, T], str | None]) -> bool:
    """Whether fast() gives what plain() gives, by difference(fast(), plain()): None, or what differs in words.

    Where it does not, or a RuntimeError is raised, the path is turned off. Running out of memory tells nothing of the
    path, so that is raised.
    """
    try:
        why = difference(fast(), plain())
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        why = reason(error)
    if why is not None:
        turn_off(path, why)
    elif not is_off(path):
        _verdicts.get()[path] = USED
    return not is_off(path)


def reason(error: RuntimeError) -> str:
    """Its first line; of one that was raised while another was handled, that of the other."""
    return str(error.__context__ or error).strip().partition("\n")[0] or type(error).__name__


Outcome = tuple[Tensor, Sequence[Tensor]]


def step_difference(fast: Outcome, plain: Outcome) -> str | None:
    """Compare two training steps on one batch, from one state and one random state.

    Each is the loss with the terms (1 + K,), and by how much each tensor has moved: parameters, moments of Adam.
    """
    (values, moves), (expected, expected_moves) = fast, plain
    off = (values - expected).abs().max().item()
    if not off <= _LOSS_TOLERANCE * expected.abs().max().item():
        return f"the loss is off by {off:.2g} from {expected[0].item():.4g}"
    for move, wanted in zip(moves, expected_moves, strict=True):
        off, length = torch.dist(move, wanted).item(), wanted.norm().item()
        if not off <= _MOVE_TOLERANCE * length:
            return f"a step moves the model elsewhere: by {length:.2g}, of which {off:.2g} differs"
    return None


def score_difference(fast: Tensor, plain: Tensor, magnitudes: Tensor) -> str | None:
    """Compare scores in bfloat16 with those in float32, all (B, K, M).

    magnitudes: Σ_d |p_d·q_d| of each, which is what rounding is relative to. Near ties may be picked the other way. But
    where every score is within its rounding, the score of what is picked is within twice that of the best.
    """
    wrong = ~((fast - plain).abs() <= _BFLOAT16_TOLERANCE * magnitudes + 1e-30)  # also where NaN
    if not wrong.any():
        return None
    flipped = (fast.argmax(-1) != plain.argmax(-1)).double().mean().item()
    share = wrong.double().mean().item()
    return f"{share:.2%} of the scores are off by more than bfloat16 rounds, and {flipped:.2%} of the negatives differ"


Lists = tuple[Tensor, Tensor]


def list_difference(fast: Lists, plain: Lists) -> str | None:
    """Compare ranked items and their scores, (L, B, k) each: a shortlist only saves work, so lists are equal."""
    differ = torch.stack([one != other for one, other in zip(fast, plain, strict=True)]).any(0).any(-1)  # (L, B)
    return f"{int(differ.sum())} of {differ.numel()} lists differ" if differ.any() else None
