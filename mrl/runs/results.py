"""All that a finished run leaves in its directory, but its config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl
import torch
from torch import Tensor

from mrl.config import TrainConfig
from mrl.data import Interactions, Positives
from mrl.evaluation import Evaluation
from mrl.runs.card import accuracy_picture, model_card
from mrl.runs.directory import RunDirectory, environment


def write_run(
    directory: RunDirectory,
    config: TrainConfig,
    data: Interactions,
    results: Sequence[Evaluation],
    device: torch.device,
    *,
    history: pl.DataFrame,
    vectors: tuple[Tensor, Tensor] | None,
    backbone: Mapping[str, Tensor] | None = None,
    facts: Mapping[str, Any] | None = None,
    seen: tuple[Positives, Positives | None] | None = None,
) -> None:
    """Write all of a finished run but its config.

    results: what was measured, test last. vectors: users (U, D) and items (I, D), None for a model that has none.
    facts: what environment.json is to hold beside versions and memory, such as seconds.
    seen: what users have met, the positives of training and what was dropped; None: those of the data.
    """
    columns = {"dataset": data.name, "model": config.run_name, "protocol": config.protocol, "seed": config.seed}
    directory.write_history(history)
    directory.write_ids(data)
    if seen is None:
        seen = (data.merge_valid().train if config.protocol == "honest" else data.train), data.dropped
    directory.write_seen(*seen)
    if vectors is not None:
        directory.write_weights(*vectors, backbone)
    made = environment(data, device) | dict(facts or {})
    directory.write_environment(made)
    if results[-1].per_user is not None:
        directory.write_per_user(results[-1].per_user)
    metrics = pl.concat(result.tidy(**columns) for result in results)
    dims = None if vectors is None else vectors[0].shape[1]
    sizes = {"users": data.num_users, "items": data.num_items, "dims": dims}
    directory.write_card(model_card(config.to_dict(), made, metrics, **sizes), accuracy_picture(metrics))
    directory.write_metrics(metrics)  # last: a run with metrics is a finished one
