"""The models of the study: what each is called, how it is fitted, which of its settings are searched, in what range.

To add one is to add a `Contender` to `contenders`. A contender of several parts (independent models, one a width) is
one row of the tables: its parts share `row`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from mrl.errors import ConfigError
from mrl.study.fitting import Fit, fit_bpr_rotated, fit_ease, fit_ials, fit_nested, fit_popularity, fit_recipe

TRAINING = ("trainer", "evaluation.evaluate")
COMPUTING = ("least_squares.ials", "controls.models", "evaluation.evaluate")


@dataclass(frozen=True)
class LogRange:
    """A number between low and high, searched on a logarithmic scale."""

    low: float
    high: float


@dataclass(frozen=True)
class Choice:
    """One of some values."""

    values: tuple[float | int | str | bool, ...]


Space = Mapping[str, LogRange | Choice]


@dataclass(frozen=True)
class Contender:
    """A model of the study.

    fit: from a task and settings to a model; the settings are `fixed`, what was drawn from `space`, and in the end what
    the best trial has found on the way. widths: at which it is judged, empty for a model that has none.
    start: settings of the first trial. trials: fewer than the study grants: 1 where nothing is to be chosen or the fit
    searches by itself and reports what it `found`; 0 for a fit that splits off, searches and refits by itself (it then
    gets the validation part with the data in the end, and searches for every seed).
    deterministic: the seed changes nothing, so that one is enough. modules: of `mrl`, those whose code makes the
    figures, without those that they import; when any of it changes, old figures are no longer used.
    """

    name: str
    role: Literal["ours", "mrl4rec", "control"]
    fit: Fit
    widths: tuple[int, ...]
    modules: tuple[str, ...]
    fixed: Mapping[str, Any] = field(default_factory=dict)
    space: Space = field(default_factory=dict)
    start: Mapping[str, Any] = field(default_factory=dict)
    trials: int | None = None
    deterministic: bool = False
    row: str = ""

    @property
    def searches(self) -> bool:
        """Whether its fit searches by itself, once, in what is its one trial."""
        return self.trials == 1 and not self.deterministic

    @property
    def model(self) -> str:
        """What the tables call it."""
        return self.row or self.name


def contenders(widths: Sequence[int]) -> list[Contender]:
    """Every model of the study, in the order of the tables."""
    widths = tuple(widths)
    return [*_ours(widths), *_nested(widths), *_controls(widths)]


def _ours(widths: tuple[int, ...]) -> list[Contender]:
    """The recipes of this project, the default first; each searches by itself."""
    return [
        Contender(recipe, "ours", fit_recipe, widths, ("train",), fixed={"recipe": recipe}, trials=1)
        for recipe in ("refined", "least_squares")
    ]


def _nested(widths: tuple[int, ...]) -> list[Contender]:
    """mrl4rec: MF and LightGCN, with and without matryoshka negative sampling, two hardness rules."""
    space = {
        "l2": LogRange(1e-5, 1e-2),
        "learning_rate": LogRange(5e-4, 5e-3),
        "candidates": Choice((4, 8, 16, 32)),
    }
    start = {"l2": 1e-4, "learning_rate": 1e-3, "candidates": 16}  # the authors'
    graph, hops = {"hops": Choice((1, 2, 3))}, {"hops": 2}
    found = []
    for backbone in ("mf", "lightgcn"):
        more, first = (graph, hops) if backbone == "lightgcn" else ({}, {})
        for rule, nested in (("dns", True), ("dns", False), ("ahns", True)):
            found.append(
                Contender(
                    f"{backbone}-{rule}-{'mns' if nested else 'shared'}",
                    "mrl4rec",
                    fit_nested,
                    widths,
                    TRAINING,
                    fixed={"backbone": backbone, "rule": rule, "nested_negatives": nested},
                    space=space | more,
                    start=start | first,
                )
            )
    return found


def _controls(widths: tuple[int, ...]) -> list[Contender]:
    """What nested training has to beat."""
    widest = widths[-1]
    linear = {
        "space": {"alpha0": LogRange(1e-3, 1.0), "l2": LogRange(3e-4, 0.3)},
        "start": {"alpha0": 0.03, "l2": 0.01},
    }

    def rotated(name: str, dim: int, judged: tuple[int, ...], row: str = "") -> Contender:
        return Contender(name, "control", fit_ials, judged, COMPUTING, fixed={"dim": dim}, row=row, **linear)

    half = tuple(width for width in widths if width <= widest // 2)
    return [
        *([rotated(f"ials-{half[-1]}", half[-1], half)] if half else []),
        rotated(f"ials-{widest}", widest, widths),
        rotated(f"ials-{2 * widest}", 2 * widest, widths),
        *(rotated(f"ials-alone-{width}", width, (width,), row="ials-alone") for width in widths),
        Contender(
            "bpr-rotated",
            "control",
            fit_bpr_rotated,
            widths,
            (*TRAINING, *COMPUTING),
            fixed={"backbone": "mf", "rule": "dns"},
            space={
                "l2": LogRange(1e-5, 1e-2),
                "learning_rate": LogRange(5e-4, 5e-3),
                "candidates": Choice((1, 4, 16)),  # 1 is uniform sampling
            },
            start={"l2": 1e-4, "learning_rate": 1e-3, "candidates": 16},
        ),
        Contender(
            "ease",
            "control",
            fit_ease,
            (),
            COMPUTING,
            space={"l2": LogRange(10.0, 3000.0)},
            start={"l2": 300.0},
            deterministic=True,
        ),
        Contender("popularity", "control", fit_popularity, (), COMPUTING, trials=1, deterministic=True),
    ]


def select(names: Iterable[str], widths: Sequence[int]) -> list[Contender]:
    """The contenders of these names or rows, all of them where no name is given; ConfigError for an unknown name."""
    found, names = contenders(widths), list(names)
    known = dict.fromkeys(name for each in found for name in (each.model, each.name))
    if unknown := [name for name in names if name not in known]:
        raise ConfigError(f"contenders={unknown[0]!r}: unknown; choose of {', '.join(known)}")
    return [each for each in found if not names or {each.name, each.model} & set(names)]
