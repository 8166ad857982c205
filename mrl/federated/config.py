"""The settings of a federated training: checked before any data loads, saved beside the vectors they produced."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from mrl.config import NotNegative, Optional, Positive, Share, TrainConfig, in_sections
from mrl.errors import ConfigError
from mrl.parameters import PathText, settings
from mrl.widths import check_level_weights, check_widths

MethodName = Literal["closed_form", "hetefedrec", "fedmrl"]
Scenario = Literal["mixed", "narrow", "wide", "alone", "central"]
# What a federated run's config.json has of a TrainConfig: which data they are, and what readers of any run ask for.
SHARED = (
    *("dataset", "protocol", "split", "holdout", "min_rating", "core"),
    *("user_column", "item_column", "rating_column", "timestamp_column", "planted"),
    *("widths", "eval_widths", "seed", "device", "per_user", "run_dir", "name"),
)


@settings
class FederatedConfig:
    """Parameters of `notebooks/federated.ipynb`. Impossible values raise ConfigError, one line each.

    Data
        dataset: a name or a path. data: further data settings of `train.ipynb`, such as {"min_rating": 4}.
    Clients
        widths: nested widths. shares: how many clients hold each, narrow to those with the least data; empty for
            5 : 3 : 2 of three widths, and all at the widest otherwise.
        groups: into how many clients users are dealt at random; 0: every user is one.
        scenario: mixed, as the shares say; narrow, all at the narrowest; wide, only clients of the widest take part,
            the others use the first columns of what comes out; alone, nobody sends anything; central, no clients.
    Method
        method: closed_form, hetefedrec or fedmrl. level_weights: one a width, empty for equal ones.
        block: columns that a closed-form step solves at most, which bounds uploads; 0 for those of a level.
        alpha0, l2, nu, l2_width_exponent: of the closed form (`mrl.least_squares.nested`); alpha0 None for the usual
            one by the density of the data. start_rounds: of power iteration, which the closed form begins with.
        memory: the share of the sums of earlier rounds that the closed form keeps: for few clients a round.
        learning_rate, local_steps, negatives: of the clients of gradient methods: of a step (of the mean over what a
            user has met for its vector, of the sum for its copies of items), steps a round, and negatives of a step for
            each interaction. candidates: drawn for each negative, which is the hardest of them. server_optimiser,
            server_learning_rate: by which the server follows the mean of what they changed, adam or sgd. initial_scale:
            of vectors. vector_l2: the penalty of the vectors of a triplet (`mrl.federated.local_steps`).
        decorrelation, distillation: weights of what hetefedrec asks beside the ranking (`mrl.loss`).
    Rounds
        rounds: at most, the start included; 0 for 15 of the closed form and 200 of gradient methods. fraction: of the
            clients that are drawn a round. activity: exponent of the number of interactions, by which a client is drawn
            more often; 0: all alike.
        dropout: the chance that a drawn client sends nothing in a round. stragglers: that its messages come a round
            late; late: discard them, or count them in that round. max_norm: of a message; larger ones are refused.
        monitor, eval_every, patience: validation metric (of users at the width of their client), rounds between
            validations (0 for 1 and 10), and how many without a better one end the run.
    Output
        seed, per_user, run_dir, name, resume: as of a training (`mrl.config.TrainConfig`).
    """

    dataset: Annotated[PathText, Field(min_length=1)] = "ml-100k"
    data: dict[str, Any] = Field(default_factory=dict)

    widths: tuple[int, ...] = (8, 16, 32)
    shares: tuple[NotNegative, ...] = ()
    groups: NonNegativeInt = 0
    scenario: Scenario = "mixed"

    method: MethodName = "closed_form"
    level_weights: tuple[float, ...] = ()
    block: NonNegativeInt = 4
    alpha0: Annotated[Positive | None, Optional] = None
    l2: Positive = 0.01
    nu: NotNegative = 1.0
    l2_width_exponent: NotNegative = 0.0
    start_rounds: PositiveInt = 6
    memory: Share = 0.0
    learning_rate: Positive = 1.0
    local_steps: PositiveInt = 1
    negatives: PositiveInt = 1
    candidates: PositiveInt = 1
    server_optimiser: Literal["adam", "sgd"] = "adam"
    server_learning_rate: Positive = 0.01
    initial_scale: Positive = 0.1
    vector_l2: NotNegative = 0.03
    decorrelation: NotNegative = 0.0
    distillation: NotNegative = 0.0

    rounds: NonNegativeInt = 0
    fraction: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 1.0
    activity: NotNegative = 0.0
    dropout: Share = 0.0
    stragglers: Share = 0.0
    late: Literal["discard", "count"] = "discard"
    max_norm: Annotated[Positive | None, Optional] = None
    monitor: Literal["recall@10", "recall@20", "ndcg@10", "ndcg@20"] = "ndcg@20"
    eval_every: NonNegativeInt = 0
    patience: PositiveInt = 5

    seed: NonNegativeInt = 0
    per_user: bool = False
    run_dir: PathText = ""
    name: Annotated[str, Field(pattern=r"^[\w.+-]*$")] = ""
    resume: bool = True

    @model_validator(mode="after")
    def _together(self) -> FederatedConfig:
        check_widths(self.widths)
        check_level_weights(self.level_weights, self.widths)
        if self.shares and (len(self.shares) != len(self.widths) or not sum(self.shares)):
            raise ConfigError(f"shares={list(self.shares)}: give one for each of the widths {list(self.widths)}")
        if self.method == "closed_form" and self.pace[0] <= self.start_rounds:
            raise ConfigError(
                f"rounds={self.pace[0]}: the first start_rounds={self.start_rounds} only begin; give more"
            )
        held = [weight for weight, share in zip(self.weights, self.client_shares, strict=True) if share]
        if not all(held):
            raise ConfigError(f"level_weights={list(self.level_weights)}: a width that clients hold weighs nothing")
        self.training  # noqa: B018  (checks what is in `data`)
        return self

    @property
    def pace(self) -> tuple[int, int]:
        """How many rounds at most, and between validations."""
        is_gradient = self.method != "closed_form" and self.scenario not in ("alone", "central")
        rounds, between = (200, 10) if is_gradient else (15, 1)
        return self.rounds or rounds, self.eval_every or between

    @property
    def client_shares(self) -> tuple[float, ...]:
        """How many clients hold each width, in the scenario of the config."""
        levels = len(self.widths)
        mixed = self.shares or ((5.0, 3.0, 2.0) if levels == 3 else (0.0,) * (levels - 1) + (1.0,))
        narrow = next(level for level, share in enumerate(mixed) if share > 0)
        return tuple(float(level == narrow) for level in range(levels)) if self.scenario == "narrow" else mixed

    @property
    def weights(self) -> tuple[float, ...]:
        """One weight a level."""
        return check_level_weights(self.level_weights, self.widths)

    @property
    def run_name(self) -> str:
        method = "" if self.scenario in ("alone", "central") else f"-{self.method.replace('_', '-')}"
        return self.name or f"federated{method}{'' if self.scenario == 'mixed' else f'-{self.scenario}'}"

    @property
    def training(self) -> TrainConfig:
        """The settings that data and run directory go by."""
        own = {"dataset": self.dataset, "widths": self.widths, "seed": self.seed, "per_user": self.per_user}
        own |= {"run_dir": self.run_dir, "name": self.run_name, "recipe": "least_squares", "device": "cpu"}
        if taken := next((name for name in self.data if name in own or name not in _DATA), None):
            raise ConfigError(f"data={{{taken!r}: …}}: is no setting of data; they are {', '.join(sorted(_DATA))}")
        return TrainConfig(**in_sections(self.data, own))

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


_DATA = {*SHARED, "test_fraction", "valid_fraction", "overlap"} - {"dataset", "device", "per_user", "name", "run_dir"}
