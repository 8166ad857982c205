"""Nested (matryoshka) embeddings for recommendation: one table of vectors, every width a model.

    from mrl import TrainConfig, fit, load
    run = fit(TrainConfig(dataset="ml-100k"))
    run.recommend([196], k=10, width=16)

Lai et al., Matryoshka Representation Learning for Recommendation, arXiv 2406.07432.
"""

import os

# Threads that wait by spinning make small steps ten to seventy times slower where another process wants the core, too.
# Read when torch loads its OpenMP, so it has to be said before that. GNU's waits for some microseconds all the same,
# which makes small steps a fifth faster on idle cores and no slower on busy ones.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

from mrl.config import TrainConfig
from mrl.data import Interactions, Positives, load_data
from mrl.errors import ConfigError, DataError, MRLError, RunError
from mrl.evaluation import evaluate
from mrl.loss import NestedLoss
from mrl.model import LightGCN, MatrixFactorization
from mrl.runs import Run, load
from mrl.sampler import NegativeSampler

from mrl import train

__version__ = "0.1.0"


def fit(
    config: TrainConfig, data: Interactions | None = None, *, processes: int | None = None, progress: bool = True
) -> Run:
    """Train, evaluate and write the run directory: `mrl.train.fit`, or `mrl.distributed.fit` in several processes.

    What those need is rare, and would be half of every import.
    """
    if (config.processes if processes is None else processes) == 1:
        return train.fit(config, data, progress=progress)
    from mrl import distributed

    return distributed.fit(config, data, processes=processes, progress=progress)


def __getattr__(name: str) -> object:
    """Vectors to and from elsewhere are rare, and would take a tenth of the import."""
    if name in ("export", "load_export", "nest"):
        from mrl import exchange

        return getattr(exchange, name)
    raise AttributeError(f"module 'mrl' has no attribute {name!r}")
