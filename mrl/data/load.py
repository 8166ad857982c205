"""The data set of a config, with its validation part, and the device to compute on."""

from __future__ import annotations

import torch

from mrl.config import TrainConfig
from mrl.data.datasets import load_dataset
from mrl.data.holdout import as_paper, hold_out
from mrl.data.interactions import Interactions
from mrl.errors import ConfigError

SETTINGS = (
    "split", "test_fraction", "min_rating", "core", "overlap", "seed", "user_column", "item_column", "rating_column",
    "timestamp_column",
)  # fmt: skip
DATA_SETTINGS = ("dataset", "planted", "protocol", "valid_fraction", *SETTINGS)  # what the data of a config depend on


def pick_device(device: str = "auto") -> torch.device:
    """`auto` is the GPU where there is one, else the CPU; a GPU that is asked for and absent is a ConfigError."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"device={device!r}: torch sees no CUDA device; use device='auto' or 'cpu'")
    return torch.device(device)


def load_data(config: TrainConfig) -> Interactions:
    """The data set of a config, with validation as its protocol says."""
    data = load_dataset(config.dataset, **{name: config.setting(name) for name in SETTINGS}, **config.planted)
    if config.protocol == "paper":
        return as_paper(data)
    return hold_out(data, config.holdout.valid_fraction, seed=config.seed)
