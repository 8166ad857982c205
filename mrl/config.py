"""The settings of a training run: one frozen dataclass, checked before any data loads, saved beside the weights.

A recipe says how vectors come about, and gives the settings that are left out their values:

    refined         nested least squares, then matryoshka negative sampling on propagated factors (the default)
    least_squares   nested least squares alone: closed form, the same vectors from the same settings
    mrl4rec         the published method (Lai et al., arXiv 2406.07432), on matrix factorisation or LightGCN

Every field is a parameter of `notebooks/train.ipynb` under the same name.
"""

from __future__ import annotations

import math
from dataclasses import asdict, fields, replace
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, FiniteFloat, NonNegativeInt, PositiveInt, model_validator
from pydantic.dataclasses import dataclass
from pydantic_core import ArgsKwargs

from mrl.errors import ConfigError
from mrl.widths import DEFAULT_WIDTHS, check_level_weights, check_widths

# Settings that say where and whether, not what: two runs that differ only here are the same run.
ELSEWHERE = ("resume", "run_dir", "device")

# What each recipe takes where nothing is said. mrl4rec: the authors' settings; refined: in `reports/log.md`.
_REFINED = {
    "backbone": "propagation",
    "epochs": 12,
    "batch_size": 0,
    "learning_rate": 2e-3,
    "eval_every": 1,
    "patience": 3,
}
RECIPES: dict[str, dict[str, Any]] = {
    "refined": _REFINED,
    "least_squares": _REFINED | {"epochs": 0},
    "mrl4rec": {
        "backbone": "mf",
        "epochs": 300,
        "batch_size": 2048,
        "learning_rate": 1e-3,
        "l2": 1e-4,
        "hops": 2,
        "eval_every": 5,
        "patience": 10,
    },
}
BY_RECIPE = tuple(RECIPES["mrl4rec"])  # settings that may be left out
# Of refined and least_squares, what has not been chosen yet; no level weights are equal ones.
USUAL = {
    "emphasis": 0.0,
    "growth": 0.0,
    "train_width": 0,
    "sweeps": 1,
    "nu": 1.0,
    "hops": 2,
    "l2": 1e-2,
    "scale": 1.0,
}

Share = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Optional = BeforeValidator(lambda value: None if value in ("", "None", "null") else value)  # as papermill passes None


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class TrainConfig:
    """What `mrl.train.fit` needs to know. Impossible values raise ConfigError (through pydantic, one line each).

    Data
        dataset: a registry name (`mrl.data.datasets.DATASETS`) or a path to a file or folder of your own.
        protocol: `honest` (epoch from validation, refit on all of train, test touched once) or `paper`
            (epoch picked on test; only to compare with published numbers).
        split: auto, given, random, leave_last or temporal. test_fraction: for random and temporal.
        valid_fraction: of each user's training items, held out under `honest`.
        min_rating: keep ratings of at least this. core: k of the k-core filter, 1 for none.
        overlap: what to do with a pair in train and test: error or drop_test.
        user_column, item_column, rating_column, timestamp_column: of CSV, TSV and Parquet files.
        planted: settings of `mrl.data.synthetic.planted_interactions`, for the data set `planted`.
    Recipe
        recipe: refined, least_squares or mrl4rec; left out, refined, or mrl4rec where the backbone is one of its own.
            Where backbone, epochs, batch_size, learning_rate, eval_every or patience is None, the recipe says; so it
            does with hops and l2 of mrl4rec.
    Least squares (recipes refined and least_squares); None or empty: chosen on validation, on several draws of it
        where it is small
        alpha0: weight of all pairs, beside 1 of observed ones. frequency_l2, nu: its penalty is
            frequency_l2 · (positives + α0 · rows of the other side)^nu a row.
        emphasis: how much popular items count in the choice of the first axes. growth: of the penalty with the width d,
            (d / 16)^growth above 16. shares: of the neighbours' vectors that users and items pick up in propagation.
            sweeps: of nested least squares. train_width: dimensions fitted, of which the first are kept; 0 for twice
            the widest width. trials: of alpha0 and frequency_l2, at most, under each of the shares.
            train_width, sweeps, nu, hops, level_weights, l2 and scale are chosen with frequency_l2; where that is
            given, those left out are 0, 1, 1, 2, equal, .01 and 1.
        turn: of refined: so many leading axes, a width, are turned so that narrower prefixes rank as they do together
            (`mrl.least_squares.rotation`); 0: none.
        scale: of refined: what the vectors that training starts from are multiplied by.
    Model
        backbone: mf or lightgcn for mrl4rec, propagation for the others. hops, edge_dropout: of graph models.
            message_dropout: of lightgcn.
        widths: nested widths; the widest is the embedding size. level_weights: one a width; empty: chosen as said
            above, or equal for mrl4rec.
    Loss and negatives
        loss: bpr, bce, cml, dau or uib. margin: of cml. uniformity: of dau.
        rule: rns, dns, dns_mn, mix, cns, ahns or dens. candidates: M, drawn for each negative.
        nested_negatives: each level its own candidates and negative (MNS), or one negative for all levels.
        similarity: by which rules compare: inner, cosine or distance. topk: of dns_mn. hardness: α, β, p of ahns.
        levels_per_step: a random subset of so many levels a step; 0 for all.
    Optimisation
        epochs: at most. batch_size: positives a step; 0 for 8192, or a 32nd of all where that is more.
        learning_rate: of Adam. l2: λ on the batch's ego vectors.
        eval_every: epochs between validations. patience: validations without a better one before stopping.
        monitor: validation metric, averaged over the widths.
        seed: of splits, initial values, shuffling and sampling. device: auto, cpu, cuda, cuda:1, …
    Output
        eval_widths: further widths to report, for example 6, 12, 24, 48. per_user: write every user's figures too.
        run_dir: where the run goes; empty for runs/<dataset>-<name>-<seed>. name: empty for one made of the settings.
        resume: go on from an interrupted run with the same settings.
    """

    dataset: Annotated[str, Field(min_length=1)] = "ml-100k"
    protocol: Literal["honest", "paper"] = "honest"
    split: Literal["auto", "given", "random", "leave_last", "temporal"] = "auto"
    test_fraction: Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)] = 0.2
    valid_fraction: Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)] = 0.1
    min_rating: Annotated[FiniteFloat | None, Optional] = None
    core: PositiveInt = 1
    overlap: Literal["error", "drop_test"] = "error"
    user_column: str = "user"
    item_column: str = "item"
    rating_column: Annotated[str | None, Optional] = None
    timestamp_column: Annotated[str | None, Optional] = None
    planted: dict[str, Any] = Field(default_factory=dict)

    recipe: Literal["refined", "least_squares", "mrl4rec"] = "refined"
    alpha0: Annotated[Positive | None, Optional] = None
    frequency_l2: Annotated[Positive | None, Optional] = None
    nu: Annotated[NotNegative | None, Optional] = None
    emphasis: Annotated[NotNegative | None, Optional] = None
    growth: Annotated[NotNegative | None, Optional] = None
    shares: Annotated[tuple[NotNegative, ...], Field(max_length=2)] = ()
    sweeps: Annotated[NonNegativeInt | None, Optional] = None
    train_width: Annotated[NonNegativeInt | None, Optional] = None
    trials: PositiveInt = 12
    turn: Annotated[NonNegativeInt | None, Optional] = None
    scale: Annotated[Positive | None, Optional] = None

    backbone: Annotated[Literal["mf", "lightgcn", "propagation"] | None, Optional] = None
    hops: Annotated[NonNegativeInt | None, Optional] = None
    edge_dropout: Share = 0.0
    message_dropout: Share = 0.0
    widths: tuple[int, ...] = DEFAULT_WIDTHS
    level_weights: tuple[float, ...] = ()

    loss: Literal["bpr", "bce", "cml", "dau", "uib"] = "bpr"
    margin: Positive = 0.5
    uniformity: Positive = 1.0
    rule: Literal["rns", "dns", "dns_mn", "mix", "cns", "ahns", "dens"] = "dns"
    candidates: PositiveInt = 16
    nested_negatives: bool = True
    similarity: Literal["inner", "cosine", "distance"] = "inner"
    topk: PositiveInt = 4
    hardness: tuple[FiniteFloat, FiniteFloat, FiniteFloat] = (1.0, 1.0, -2.0)
    levels_per_step: NonNegativeInt = 0

    epochs: Annotated[NonNegativeInt | None, Optional] = None
    batch_size: Annotated[NonNegativeInt | None, Optional] = None
    learning_rate: Annotated[Positive | None, Optional] = None
    l2: Annotated[NotNegative | None, Optional] = None
    eval_every: Annotated[PositiveInt | None, Optional] = None
    patience: Annotated[PositiveInt | None, Optional] = None
    monitor: Literal["recall@10", "recall@20", "ndcg@10", "ndcg@20"] = "ndcg@20"
    seed: NonNegativeInt = 0
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"

    eval_widths: tuple[PositiveInt, ...] = ()
    per_user: bool = False
    run_dir: str = ""
    name: Annotated[str, Field(pattern=r"^[\w.+-]*$")] = ""
    resume: bool = True

    @model_validator(mode="before")
    @classmethod
    def _by_recipe(cls, given: ArgsKwargs | dict) -> dict:
        values = dict(given if isinstance(given, dict) else given.kwargs or {})
        published = values.get("backbone") in ("mf", "lightgcn")
        recipe = values.setdefault("recipe", "mrl4rec" if published else "refined")
        for name, value in RECIPES.get(recipe, {}).items() if isinstance(recipe, str) else ():
            if values.get(name) in (None, "", "None", "null"):
                values[name] = value
        return values

    @model_validator(mode="after")
    def _together(self) -> TrainConfig:
        if self.recipe == "mrl4rec" and self.epochs < 1:
            raise ConfigError("epochs=0: recipe='mrl4rec' needs at least 1")
        if self.recipe == "least_squares" and self.epochs > 0:
            raise ConfigError(f"epochs={self.epochs}: recipe='least_squares' has none; recipe='refined' has")
        if (self.backbone == "propagation") != (self.recipe != "mrl4rec"):
            remedy = "recipe='mrl4rec' has mf and lightgcn, the other recipes have propagation"
            raise ConfigError(f"backbone={self.backbone!r}, recipe={self.recipe!r}: {remedy}")
        if len(self.shares) == 1:
            raise ConfigError(f"shares={list(self.shares)}: give two, of users and of items, or none")
        if self.train_width and self.train_width < self.widths[-1]:
            raise ConfigError(f"train_width={self.train_width}: must be at least the widest width, {self.widths[-1]}")
        if self.turn and self.recipe != "refined":
            raise ConfigError(f"turn={self.turn}: recipe={self.recipe!r} has none; recipe='refined' has")
        check_widths(self.widths)
        if self.turn and self.turn not in self.widths[1:]:
            raise ConfigError(f"turn={self.turn}: must be 0 or one of {list(self.widths[1:])}")
        check_level_weights(self.level_weights, self.widths)
        if self.rule == "dns_mn" and self.topk > self.candidates:
            raise ConfigError(f"topk={self.topk}: must be at most candidates={self.candidates}")
        if self.eval_widths:
            check_widths(self.report_widths, self.widths[-1])
        if self.levels_per_step > len(self.widths):
            raise ConfigError(f"levels_per_step={self.levels_per_step}: there are {len(self.widths)} levels")
        return self

    @property
    def run_name(self) -> str:
        """`name`, or one made of what sets the run apart, for example mf-dns-mns."""
        if self.name:
            return self.name
        if self.recipe != "mrl4rec":
            parts = [self.recipe.replace("_", "-")] + ([self.rule] if self.epochs and self.rule != "dns" else [])
            return "-".join(parts + (["shared"] if self.epochs and not self.nested_negatives else []))
        backbone = self.backbone if self.backbone == "mf" else f"lightgcn{self.hops}"
        parts = [backbone, *([self.loss] if self.loss != "bpr" else []), self.rule]
        return "-".join([*parts, "mns" if self.nested_negatives else "shared"])

    @property
    def report_widths(self) -> tuple[int, ...]:
        """The trained widths and `eval_widths`, in order."""
        return tuple(sorted({*self.widths, *self.eval_widths}))

    def closed(self) -> TrainConfig:
        """What is still open of `USUAL` at its usual value."""
        return replace(self, **{name: value for name, value in USUAL.items() if getattr(self, name) is None})

    def to_dict(self) -> dict:
        return asdict(self)

    @classmethod
    def names(cls) -> tuple[str, ...]:
        return tuple(field.name for field in fields(cls))


def differing(a: dict, b: dict) -> dict[str, tuple]:
    """Settings that two config dictionaries do not share, by name, as (a's, b's); ELSEWHERE is left out."""

    def same(x: object, y: object) -> bool:
        if isinstance(x, list | tuple) and isinstance(y, list | tuple):
            return len(x) == len(y) and all(map(same, x, y))
        return x == y or (isinstance(x, float) and isinstance(y, float) and math.isclose(x, y))

    names = [name for name in {**a, **b} if name not in ELSEWHERE]
    return {name: (a.get(name), b.get(name)) for name in names if not same(a.get(name), b.get(name))}
