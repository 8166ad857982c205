"""The settings of a training run: one frozen dataclass, checked before any data loads, saved beside the weights.

A recipe says how vectors come about, and gives the settings that are left out their values:

    default         wide iALS, propagation, a learned rotation, then epochs of a nested softmax on the graph
    least_squares   the same without training: seconds, and the same vectors from the same settings
    mrl4rec         the published method (Lai et al., arXiv 2406.07432), on matrix factorisation or LightGCN

Every field is a parameter of `notebooks/train.ipynb`. Settings of one recipe, rule or loss that hardly anybody turns
stand together in a section, which is given as a dict: `least_squares={"alpha0": 0.1}`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, FiniteFloat, NonNegativeInt, PositiveInt, model_validator
from pydantic_core import ArgsKwargs

from mrl.errors import ConfigError
from mrl.parameters import PathText, sections_of, settings
from mrl.recipes import OF_PAIRS, USUAL, settings_of
from mrl.widths import AUTO, DEFAULT_WIDTHS, NARROWEST, check_level_weights, check_widths

# Settings that say where and whether, not what: two runs of the same data that differ only here are the same run.
# Whether data are the same is told by their fingerprint, wherever they lie.
ELSEWHERE = ("dataset", "resume", "run_dir", "device", "processes")

Share = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]
Optional = BeforeValidator(lambda value: None if value in ("", "None", "null") else value)  # as papermill passes None
OrNone = BeforeValidator(lambda value: None if value in ("None", "null") else value)  # where "" means something


@settings
class HoldoutSettings:
    """What is held out.

    test_fraction: of the splits random and temporal. valid_fraction: of each user's training items, under `honest`.
    overlap: what to do with a pair in train and test: error or drop_test.
    """

    test_fraction: Fraction = 0.2
    valid_fraction: Fraction = 0.1
    overlap: Literal["error", "drop_test"] = "error"


@settings
class LeastSquaresSettings:
    """Least squares and what is made of it, in the recipes default and least_squares.

    None or empty: chosen on validation, as `search` says.

    search: quick; thorough, which also tries other values of nu, l2_width_exponent and level_weights, and of hops, l2
        and initial_scale of the training; none: usual values, predicted from the density of the data.
    alpha0: weight of all pairs, beside 1 of observed ones.
    frequency_l2, nu: the penalty of a row is frequency_l2 · (positives + α0 · rows of the other side)^nu
        (Rendle et al., arXiv 2110.14037).
    fit_width: dimensions that are fitted, before the rotation cuts them to the widest width.
    sweeps: of iALS. nested_sweeps: of nested least squares after it, whose penalty grows with the width d, by
        (d / 16)^l2_width_exponent above 16.
    propagation: weights with which users and items pick up their neighbours' vectors, such as [1.0, 1.0].
    rotation: whether axes are rotated so that every prefix ranks as the whole does.
    initial_scale: standard deviation of a user's scores when training begins. Of the recipe default.
    """

    search: Literal["quick", "thorough", "none"] = "quick"
    alpha0: Annotated[Positive | None, Optional] = None
    frequency_l2: Annotated[Positive | None, Optional] = None
    nu: Annotated[NotNegative | None, Optional] = None
    fit_width: Annotated[PositiveInt | None, Optional] = None
    sweeps: Annotated[PositiveInt | None, Optional] = None
    nested_sweeps: Annotated[NonNegativeInt | None, Optional] = None
    l2_width_exponent: Annotated[NotNegative | None, Optional] = None
    propagation: Annotated[tuple[NotNegative, ...], Field(max_length=2)] = ()
    rotation: Annotated[bool | None, Optional] = None
    initial_scale: Annotated[Positive | None, Optional] = None

    @model_validator(mode="after")
    def _both_sides(self) -> LeastSquaresSettings:
        if len(self.propagation) == 1:
            raise ConfigError(f"propagation={list(self.propagation)}: give two, of users and of items, or none")
        return self


@settings
class GraphSettings:
    """Dropout of graph models. edge_dropout: of all. message_dropout: of lightgcn."""

    edge_dropout: Share = 0.0
    message_dropout: Share = 0.0


@settings
class NestedLossSettings:
    """The loss over the levels.

    level_weights: one a width; empty: equal, or chosen by a thorough search of the recipes default and least_squares.
    levels_per_step: a random subset of so many levels a step; 0 for all. margin: of cml. uniformity: of dau.
    prototypes: weight λ of nested prototypes of items (`mrl.prototypes`), 0 for none; so many per dimension of a width.
    prototypes_popularity: as many items each with 0, as many interactions with 1. prototypes_views: by halves of users.
    """

    level_weights: tuple[float, ...] = ()
    levels_per_step: NonNegativeInt = 0
    margin: Positive = 0.5
    uniformity: Positive = 1.0
    prototypes: NotNegative = 0.0
    prototypes_per_dimension: Positive = 4.0
    prototypes_popularity: NotNegative = 0.0
    prototypes_views: bool = False


@settings
class SamplerSettings:
    """The hardness rules. candidates: M, drawn for each negative. similarity: inner, cosine or distance. topk: of
    dns_mn, picks one of so many highest. hardness: α, β, p of ahns."""

    candidates: PositiveInt = 16
    similarity: Literal["inner", "cosine", "distance"] = "inner"
    topk: PositiveInt = 4
    hardness: tuple[FiniteFloat, FiniteFloat, FiniteFloat] = (1.0, 1.0, -2.0)


@settings
class EarlyStoppingSettings:
    """When training ends. eval_every: epochs between validations. patience: so many without a better one, then stop.
    monitor: validation metric, averaged over the widths. None: the recipe says."""

    eval_every: Annotated[PositiveInt | None, Optional] = None
    patience: Annotated[PositiveInt | None, Optional] = None
    monitor: Literal["recall@10", "recall@20", "ndcg@10", "ndcg@20"] = "ndcg@20"


@settings
class TrainConfig:
    """What `mrl.train.fit` needs to know. Impossible values raise ConfigError, one line each.

    Data
        dataset: a name (`mrl.data.registry.DATASETS`) or a path to a file or folder of your own.
        protocol: `honest` (epoch from validation, refit on all of train, test touched once) or `paper`
            (epoch picked on test; only to compare with published numbers).
        split: auto, given, random, leave_last or temporal. holdout: `HoldoutSettings`.
        min_rating: keep ratings of at least this. core: k of the k-core filter, 1 for none.
        user_column, item_column, rating_column, timestamp_column: of files with named columns; None for a usual name
            (`mrl.files.columns`), "" to leave rating_column or timestamp_column alone.
        planted: settings of `mrl.data.synthetic.planted_interactions`, for the data set `planted`.
    Model
        recipe: default, least_squares or mrl4rec; left out, default, or mrl4rec where the backbone is one of its own.
            Where backbone, loss, epochs, batch_size, learning_rate, eval_every or patience is None, the recipe says; so
            it does with hops and l2 of mrl4rec.
        widths: nested widths; the widest is the embedding size. "auto": powers of two from 4 up to where the widest
            stops gaining clearly on validation, in the recipes that search (`mrl.least_squares.search`).
        backbone: mf or lightgcn for mrl4rec, propagation for the others. hops: of graph models. graph: `GraphSettings`.
        least_squares: `LeastSquaresSettings`.
    Loss and negatives
        loss: softmax, bpr, bce, cml, dau or uib. nested_loss: `NestedLossSettings`. What follows is not for softmax,
            which has its own negatives.
        rule: rns, dns, dns_mn, mix, cns, ahns or dens.
        nested_negatives: each level its own candidates and negative (MNS), or one negative for all levels.
        sampler: `SamplerSettings`.
    Optimisation
        epochs: at most. early_stopping: `EarlyStoppingSettings`. learning_rate: of Adam. l2: λ on ego vectors, of the
        batch or, under softmax, all. batch_size: positives a step; 0 for 8192, or a 32nd of all where that is more, at
        up to 2.5 times the learning rate.
        seed: of splits, initial values, shuffling and sampling. device: auto, cpu, cuda, cuda:1, …
        processes: that train together on this machine, each with its shard (`mrl.distributed`); in sweeps always one.
    Output
        eval_widths: further widths to report, for example 6, 12, 24, 48. per_user: write every user's metrics too.
        run_dir: where the run goes; empty for runs/<dataset>-<name>-<seed>. name: empty for one made of the settings.
        resume: go on from an interrupted run with the same settings.
    """

    dataset: Annotated[PathText, Field(min_length=1)] = "ml-100k"
    protocol: Literal["honest", "paper"] = "honest"
    split: Literal["auto", "given", "random", "leave_last", "temporal"] = "auto"
    holdout: HoldoutSettings = Field(default_factory=HoldoutSettings)
    min_rating: Annotated[FiniteFloat | None, Optional] = None
    core: PositiveInt = 1
    user_column: Annotated[str | None, Optional] = None
    item_column: Annotated[str | None, Optional] = None
    rating_column: Annotated[str | None, OrNone] = None
    timestamp_column: Annotated[str | None, OrNone] = None
    planted: dict[str, Any] = Field(default_factory=dict)

    recipe: Literal["default", "least_squares", "mrl4rec"] = "default"
    widths: tuple[int, ...] | Literal["auto"] = DEFAULT_WIDTHS
    backbone: Annotated[Literal["mf", "lightgcn", "propagation"] | None, Optional] = None
    hops: Annotated[NonNegativeInt | None, Optional] = None
    graph: GraphSettings = Field(default_factory=GraphSettings)
    least_squares: LeastSquaresSettings = Field(default_factory=LeastSquaresSettings)

    loss: Annotated[Literal["softmax", "bpr", "bce", "cml", "dau", "uib"] | None, Optional] = None
    nested_loss: NestedLossSettings = Field(default_factory=NestedLossSettings)
    rule: Literal["rns", "dns", "dns_mn", "mix", "cns", "ahns", "dens"] = "dns"
    nested_negatives: bool = True
    sampler: SamplerSettings = Field(default_factory=SamplerSettings)

    epochs: Annotated[NonNegativeInt | None, Optional] = None
    early_stopping: EarlyStoppingSettings = Field(default_factory=EarlyStoppingSettings)
    batch_size: Annotated[NonNegativeInt | None, Optional] = None
    learning_rate: Annotated[Positive | None, Optional] = None
    l2: Annotated[NotNegative | None, Optional] = None
    seed: NonNegativeInt = 0
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    processes: PositiveInt = 1

    eval_widths: tuple[PositiveInt, ...] = ()
    per_user: bool = False
    run_dir: PathText = ""
    name: Annotated[str, Field(pattern=r"^[\w.+-]*$")] = ""
    resume: bool = True

    @model_validator(mode="before")
    @classmethod
    def _recipe_of_the_backbone(cls, given: ArgsKwargs | dict) -> dict:
        values = dict(given if isinstance(given, dict) else given.kwargs or {})
        values.setdefault("recipe", "mrl4rec" if values.get("backbone") in ("mf", "lightgcn") else "default")
        return values

    @model_validator(mode="after")
    def _together(self) -> TrainConfig:
        for name, value in settings_of(self.recipe, self.loss).items():
            if self.setting(name) is None:
                section = SECTION_OF.get(name)
                filled = replace(getattr(self, section), **{name: value}) if section else value
                object.__setattr__(self, section or name, filled)
        if self.user_column is not None and self.user_column == self.item_column:
            raise ConfigError(f"item_column={self.item_column!r}: is user_column too; give two columns")
        if self.widths == AUTO:
            self._check_auto()
        else:
            check_widths(self.widths)
            check_level_weights(self.nested_loss.level_weights, self.widths)
        if self.recipe == "mrl4rec" and self.epochs < 1:
            raise ConfigError("epochs=0: recipe='mrl4rec' needs at least 1")
        for name in ("epochs", "prototypes"):
            if self.recipe == "least_squares" and (value := self.setting(name)) > 0:
                raise ConfigError(f"{name}={value}: recipe='least_squares' has none; recipe='default' has")
        if (self.backbone == "propagation") != (self.recipe != "mrl4rec"):
            remedy = "recipe='mrl4rec' has mf and lightgcn, the other recipes have propagation"
            raise ConfigError(f"backbone={self.backbone!r}, recipe={self.recipe!r}: {remedy}")
        if self.nested_loss.prototypes_views and (self.backbone == "mf" or self.hops == 0):
            raise ConfigError("prototypes_views=True: items pick up no users here; give backbone='lightgcn' and hops=1")
        fit_width, widest = self.least_squares.fit_width, NARROWEST if self.widths == AUTO else self.widths[-1]
        if fit_width and fit_width < widest:
            raise ConfigError(f"fit_width={fit_width}: must be at least the widest width, {widest}")
        unused = {"rule": "dns", "candidates": 16, "nested_negatives": True}
        other = [f"{name}={self.setting(name)!r}" for name, value in unused.items() if self.setting(name) != value]
        if self.loss == "softmax" and other:
            raise ConfigError(f"{other[0]}: loss='softmax' weighs all items that it draws; loss='bpr' picks negatives")
        if self.rule == "dns_mn" and self.sampler.topk > self.sampler.candidates:
            raise ConfigError(f"topk={self.sampler.topk}: must be at most candidates={self.sampler.candidates}")
        if self.eval_widths:
            check_widths(self.report_widths, widest)
        if (few := self.nested_loss.levels_per_step) > len(self.widths):
            raise ConfigError(f"levels_per_step={few}: there are {len(self.widths)} levels")
        return self

    def _check_auto(self) -> None:
        """Refuse what does not go with widths that are yet to be found."""
        remedy = f"give widths such as {list(DEFAULT_WIDTHS)}"
        if self.recipe == "mrl4rec":
            raise ConfigError(f"widths='auto': recipe='mrl4rec' has no search; {remedy}, or recipe='default'")
        if self.least_squares.search == "none":
            raise ConfigError(f"widths='auto': are found by a search; {remedy}, or search='quick'")
        for name in ("level_weights", "levels_per_step", "eval_widths"):
            if value := self.setting(name):
                value = list(value) if isinstance(value, tuple) else value
                raise ConfigError(f"{name}={value}: how many widths 'auto' finds is not known yet; {remedy}")

    @property
    def run_name(self) -> str:
        """`name`, or one made of what sets the run apart, for example mf-dns-mns."""
        if self.name:
            return self.name
        if self.recipe != "mrl4rec":
            parts = [self.recipe.replace("_", "-")]
        else:
            parts = [self.backbone if self.backbone == "mf" else f"lightgcn{self.hops}"]
        if self.loss == "softmax" or not self.epochs:
            return "-".join(parts + [self.loss] * (self.recipe == "mrl4rec"))
        negatives = [self.rule, "mns" if self.nested_negatives else "shared"]
        return "-".join([*parts, *([self.loss] if self.loss != "bpr" else []), *negatives])

    @property
    def report_widths(self) -> tuple[int, ...]:
        """The trained widths and `eval_widths`, in order."""
        return tuple(sorted({*self.widths, *self.eval_widths}))

    def setting(self, name: str) -> Any:
        """A setting by its name, whatever section it stands in."""
        return getattr(getattr(self, SECTION_OF[name]) if name in SECTION_OF else self, name)

    def with_settings(self, **changes: Any) -> TrainConfig:
        """The config with other settings, by name, whatever section they stand in."""
        return type(self)(**in_sections(changes, asdict(self)))

    def usual(self) -> dict[str, Any]:
        """`USUAL` for the loss of this config."""
        return USUAL if self.loss == "softmax" else USUAL | OF_PAIRS

    def with_usual(self) -> TrainConfig:
        """What is still open of `USUAL` at its usual value."""
        usual = {name: value for name, value in self.usual().items() if self.setting(name) in (None, ())}
        return self.with_settings(**usual)

    def to_dict(self) -> dict:
        return asdict(self)


SECTION_OF = sections_of(TrainConfig)


def in_sections(changes: Mapping[str, Any], settings: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """`settings` as `TrainConfig.to_dict` gives them, with changes by name, whatever section they stand in."""
    placed = dict(settings or {})
    for name, value in changes.items():
        if name in SECTION_OF:
            placed[SECTION_OF[name]] = {**placed.get(SECTION_OF[name], {}), name: value}
        else:
            placed[name] = value
    return placed


def flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of `TrainConfig.to_dict` by name, without sections."""
    sections = set(SECTION_OF.values())
    by_name: dict[str, Any] = {}
    for name, value in settings.items():
        by_name |= value if name in sections and isinstance(value, dict) else {name: value}
    return by_name


def differing(a: dict, b: dict) -> dict[str, tuple]:
    """Settings that two config dictionaries do not share, by name, as (a's, b's); ELSEWHERE is left out."""

    def same(x: object, y: object) -> bool:
        if isinstance(x, list | tuple) and isinstance(y, list | tuple):
            return len(x) == len(y) and all(map(same, x, y))
        return x == y or (isinstance(x, float) and isinstance(y, float) and math.isclose(x, y))

    a, b = flat(a), flat(b)
    names = [name for name in {**a, **b} if name not in ELSEWHERE]
    return {name: (a.get(name), b.get(name)) for name in names if not same(a.get(name), b.get(name))}
