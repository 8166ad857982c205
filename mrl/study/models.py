"""The models of the study: what each is called, how and at which widths it is fitted, what of it is searched.

To add one is to add a `StudyModel` to `study_models`. A model of several parts (independent ones, one a width) is one
row of the tables: its parts share `row`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from mrl.controls.fitting import (
    FitFunction,
    fit_bpr_rotated,
    fit_ease,
    fit_ials,
    fit_mrl4rec,
    fit_popularity,
    fit_recipe,
)
from mrl.errors import ConfigError
from mrl.report.code import ALS, RANKING, RECIPE, TRAINING

FITTING = ("controls/fitting.py", "controls/models.py")
SEARCH = ("least_squares/validation.py",)  # which users are looked at
CONTROL_CODE = (*RANKING, *FITTING, *SEARCH)
ALS_CODE = (*ALS, *FITTING, *SEARCH)
TRAINING_CODE = (*TRAINING, *FITTING, *SEARCH)
RECIPE_CODE = (*RECIPE, *FITTING)
# of trainings, which take minutes where linear models take seconds
TRAINED_WIDEST, TRAINED_SEEDS, TRAINED_TRIALS = 128, 3, 4


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
TRAINING_SPACE: Space = {"l2": LogRange(1e-5, 1e-2), "learning_rate": LogRange(5e-4, 5e-3)}
AUTHORS_SETTINGS = {"l2": 1e-4, "learning_rate": 1e-3, "candidates": 16}


@dataclass(frozen=True)
class StudyModel:
    """A model of the study.

    role: a recipe of this project, or a baseline: the published method or a control.
    fit: from a task and settings to a model; the settings are `fixed`, what was drawn from `space`, and in the refit
    what the best trial has chosen on validation. widths: at which it is judged, empty for a model that has none.
    first_trial: settings of the first trial. max_trials: fewer than the study has: 1 where nothing is to be chosen or
    the fit searches by itself and reports its `refit_settings`.
    deterministic: the seed changes nothing, so that one is enough. max_seeds: fewer than the study has, for a model
    that is trained. on_sample: whether its search may look at a sample of the users. is_dear: left out on large data,
    unless it is named. has_stages: whether `mrl.least_squares.stages` knows its stages. code: files and folders of
    `mrl` that make the numbers; when what they do changes, old numbers are no longer used.
    """

    name: str
    role: Literal["recipe", "mrl4rec", "control"]
    fit: FitFunction
    widths: tuple[int, ...]
    code: tuple[str, ...]
    fixed: Mapping[str, Any] = field(default_factory=dict)
    space: Space = field(default_factory=dict)
    first_trial: Mapping[str, Any] = field(default_factory=dict)
    max_trials: int | None = None
    deterministic: bool = False
    max_seeds: int | None = None
    on_sample: bool = True
    is_dear: bool = False
    has_stages: bool = False
    row: str = ""

    @property
    def searches_by_itself(self) -> bool:
        """Whether its one trial is a search of its own."""
        return self.role == "recipe" and self.max_trials == 1

    @property
    def model(self) -> str:
        """The id of its row in the tables."""
        return self.row or self.name

    def seeds(self, seeds: Sequence[int]) -> Sequence[int]:
        """Those of the study that it is fitted with."""
        return seeds[:1] if self.deterministic else seeds[: self.max_seeds]

    def on_large_data(self) -> StudyModel:
        """Where a search has a sample of the users. Steps on a graph cost the same whatever they hold, so that there
        are fewer of them: `batch_size` 0 of TrainConfig. A recipe whose epochs are kept there is as dear as a training,
        and has as few widths and seeds."""
        if self.has_stages:
            widths = tuple(width for width in self.widths if width <= TRAINED_WIDEST) or self.widths[:1]
            return replace(self, widths=widths, max_seeds=TRAINED_SEEDS)
        on_graph = self.fixed.get("backbone") == "lightgcn"
        return replace(self, fixed={**self.fixed, "batch_size": 0}) if on_graph else self

    def is_among(self, names: Iterable[str]) -> bool:
        """Whether it is one of these names or rows; where there are none, yes."""
        return not names or bool({self.name, self.model} & set(names))


def study_models(widths: Sequence[int]) -> list[StudyModel]:
    """Every model of the study, in the order of the tables."""
    widths = tuple(widths)
    trained = tuple(width for width in widths if width <= TRAINED_WIDEST)
    return [*_recipes(widths), *(_mrl4rec(trained) if trained else []), *_controls(widths, trained)]


def _recipes(widths: tuple[int, ...]) -> list[StudyModel]:
    """The recipes of this project, the default first; each searches by itself."""
    common = {"fit": fit_recipe, "widths": widths, "code": RECIPE_CODE, "max_trials": 1}
    return [
        StudyModel(recipe, "recipe", fixed={"recipe": recipe}, has_stages=recipe == "default", **common)
        for recipe in ("default", "least_squares")
    ]


def _mrl4rec(widths: tuple[int, ...]) -> list[StudyModel]:
    """The published method: MF and LightGCN, with and without matryoshka negative sampling, two hardness rules."""
    space = TRAINING_SPACE | {"candidates": Choice((4, 8, 16, 32))}
    hops = {"mf": ({}, {}), "lightgcn": ({"hops": Choice((1, 2, 3))}, {"hops": 2})}
    return [
        StudyModel(
            f"{backbone}-{rule}-{'mns' if nested else 'shared'}",
            "mrl4rec",
            fit_mrl4rec,
            widths,
            TRAINING_CODE,
            fixed={"backbone": backbone, "rule": rule, "nested_negatives": nested},
            space=space | hops[backbone][0],
            first_trial=AUTHORS_SETTINGS | hops[backbone][1],
            max_trials=TRAINED_TRIALS,
            max_seeds=TRAINED_SEEDS,
            is_dear=backbone == "lightgcn" and not (rule == "dns" and nested),
        )
        for backbone in hops
        for rule, nested in (("dns", True), ("dns", False), ("ahns", True))
    ]


def _controls(widths: tuple[int, ...], trained: tuple[int, ...]) -> list[StudyModel]:
    """What nested training has to beat."""

    def ials(name: str, dim: int, judged_at: tuple[int, ...], row: str = "") -> StudyModel:
        space = {"alpha0": LogRange(1e-3, 1.0), "l2": LogRange(3e-4, 0.3)}
        search = {"space": space, "first_trial": {"alpha0": 0.03, "l2": 0.01}}
        return StudyModel(name, "control", fit_ials, judged_at, ALS_CODE, fixed={"dim": dim}, row=row, **search)

    widest = widths[-1]
    narrower = tuple(width for width in widths if width <= widest // 2)
    bpr = {"fixed": {"backbone": "mf", "rule": "dns"}, "first_trial": AUTHORS_SETTINGS}
    bpr |= {"max_trials": TRAINED_TRIALS, "max_seeds": TRAINED_SEEDS}
    bpr["space"] = TRAINING_SPACE | {"candidates": Choice((1, 4, 16))}  # 1 is uniform sampling
    bpr_code = (*TRAINING_CODE, "least_squares/axes.py")
    l2 = {"space": {"l2": LogRange(10.0, 3000.0)}, "first_trial": {"l2": 300.0}}
    return [
        *([ials(f"ials-{narrower[-1]}", narrower[-1], narrower)] if narrower else []),
        ials(f"ials-{widest}", widest, widths),
        ials(f"ials-{2 * widest}", 2 * widest, widths),
        *(ials(f"ials-alone-{width}", width, (width,), row="ials-alone") for width in widths),
        *([StudyModel("bpr-rotated", "control", fit_bpr_rotated, trained, bpr_code, **bpr)] if trained else []),
        # the best penalty of EASE grows with the users
        StudyModel("ease", "control", fit_ease, (), CONTROL_CODE, deterministic=True, on_sample=False, **l2),
        StudyModel("popularity", "control", fit_popularity, (), CONTROL_CODE, max_trials=1, deterministic=True),
    ]


def select_models(names: Iterable[str], widths: Sequence[int]) -> list[StudyModel]:
    """The models of these names or rows, all of them where no name is given; ConfigError for an unknown name."""
    models, names = study_models(widths), list(names)
    known = dict.fromkeys(name for model in models for name in (model.model, model.name))
    if unknown := [name for name in names if name not in known]:
        raise ConfigError(f"models={unknown[0]!r}: unknown; choose of {', '.join(known)}")
    return [model for model in models if model.is_among(names)]
