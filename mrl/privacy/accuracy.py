"""What differential privacy costs in accuracy: closed-form rounds at several ε, beside the same without noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import inf, isinf

import polars as pl
import torch

from mrl.data import Interactions
from mrl.errors import ConfigError
from mrl.evaluation import evaluate
from mrl.federated import FederatedConfig, Simulation
from mrl.federated.closed_form import block_spans
from mrl.privacy.noise import NoisySum, noise_multiplier

# Found on validation of MovieLens-100K: what is small in a message, and matters, is made large before the noise.
WEIGHTS = {"directions": 300.0, "count": 0.2, "owners": 0.1, "weight": 0.3, "gram": 10.0, "target": 5.0, "outer": 2.0}
EPSILONS = (1.0, 4.0, 8.0, inf)


def accuracy_by_epsilon(
    config: FederatedConfig,
    data: Interactions,
    epsilons: Sequence[float] = EPSILONS,
    *,
    delta: float,
    clip: float = 1.0,
    weights: Mapping[str, float] = WEIGHTS,
    seeds: Sequence[int] = (0, 1, 2),
    split: str = "valid",
) -> pl.DataFrame:
    """Accuracy at every width after `config.rounds` rounds of all clients, by ε.

    config: of the closed form, alpha0 given. Many rounds and blocks share the ε, so few of both are best, and a larger
    alpha0 than without noise. delta: well below one by the number of users. clip, weights: as of `NoisySum`; ε = ∞ is
    clipped, too. seeds: of start and noise. split: valid, or test after training on validation, too.
    Columns: epsilon, noise_multiplier, messages (noisy sums in all), seed, width, metric, k, value.
    The search for the settings, of which this knows nothing, is not in ε. Raises ConfigError for settings that look at
    the data.
    """
    if config.method != "closed_form" or config.alpha0 is None:
        raise ConfigError("accuracy by ε is of method='closed_form' with alpha0 given: the usual one looks at the data")
    data = data.merge_valid() if split == "test" else data
    spans = block_spans(config.widths, config.block)
    rows = []
    for epsilon, messages, multiplier in multipliers(config, epsilons, delta).iter_rows():
        for seed in seeds:
            summation = NoisySum(clip, multiplier, seed, weights, () if isinf(epsilon) else spans)
            simulation = Simulation(replace(config, seed=seed), data.train, summation=summation)
            for _ in range(config.rounds):
                simulation.round()
            result = evaluate(*simulation.vectors(), data, split=split, widths=config.widths, ks=(20,))
            facts = {"epsilon": epsilon, "noise_multiplier": multiplier, "messages": messages, "seed": seed}
            rows += [facts | row for row in result.table.filter(pl.col("k") == 20).iter_rows(named=True)]
    return pl.DataFrame(rows).select("epsilon", "noise_multiplier", "messages", "seed", "width", "metric", "k", "value")


def multipliers(config: FederatedConfig, epsilons: Sequence[float], delta: float) -> pl.DataFrame:
    """By ε the noise of all rounds of a config: columns epsilon, messages (of a client, in all), noise_multiplier."""
    spans = block_spans(config.widths, config.block)
    messages = config.start_rounds + (config.rounds - config.start_rounds) * len(spans)
    noise = [noise_multiplier(epsilon, delta=delta, messages=messages) for epsilon in epsilons]
    return pl.DataFrame({"epsilon": epsilons, "messages": [messages] * len(noise), "noise_multiplier": noise})


def popularity(data: Interactions, metric: str = "recall") -> float:
    """A metric at 20 of the most popular items for all, on test: what needs no vector. Not private."""
    data = data.merge_valid()
    items = data.train.item_counts.float()[:, None]
    result = evaluate(torch.ones(data.num_users, 1), items, data, split="test", widths=(1,), ks=(20,))
    return result.value(f"{metric}@20")


def over_seeds(table: pl.DataFrame, **facts: str | float) -> pl.DataFrame:
    """Recall and NDCG by ε and width: the facts, then epsilon, messages, noise_multiplier, width, metric, k, seeds,
    mean, low, high (the range over seeds)."""
    keys = ["epsilon", "messages", "noise_multiplier", "width", "metric", "k"]
    value = pl.col("value")
    means = table.filter(pl.col("metric").is_in(["recall", "ndcg"])).group_by(keys, maintain_order=True)
    means = means.agg(seeds=pl.len(), mean=value.mean(), low=value.min(), high=value.max())
    return means.select(*(pl.lit(each).alias(name) for name, each in facts.items()), pl.all())
