"""Whole fits beside ALS of the library implicit: how long a user waits, and for which NDCG@20.

In turn, of the same interactions and by as many threads: the recipes default and least_squares, with their search, and
ALS (Hu, Koren and Volinsky, ICDM 2008) of as many factors as the widest width, by implicit's 15 iterations of conjugate
gradient. Which alpha and regularization are good depends on the data. So ALS is measured twice: with implicit's
defaults, 1 and 0.01, and with the best of GRID on validation, since the recipes search, too.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from functools import partial
from itertools import product
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl
import torch
from scipy.sparse import csr_matrix
from torch import Tensor

from mrl.benchmark.measure import PROJECT, BenchmarkConfig, Case, measurement
from mrl.config import TrainConfig
from mrl.data import Interactions, Positives, hold_out, load_data, planted_interactions
from mrl.errors import DataError
from mrl.evaluation import evaluate
from mrl.train import fit

IMPLICIT = "implicit"
ITERATIONS = 15
DEFAULTS = (1.0, 0.01)  # alpha and regularization of implicit
GRID = tuple(product((1.0, 5.0, 10.0, 20.0, 40.0, 80.0), (0.01, 10.0, 30.0, 100.0)))  # the paper has an alpha of 40

Fit = Callable[[BenchmarkConfig, str, Interactions], tuple[float, Tensor, Tensor]]  # seconds, users, items


def has_implicit() -> bool:
    """Whether the library implicit (extra `bench`) is installed."""
    return importlib.util.find_spec(IMPLICIT) is not None


def load_fit_datasets(config: BenchmarkConfig) -> tuple[dict[str, Interactions], list[str]]:
    """The data sets of `config.fit_datasets` by name, with validation, and a line for whatever is left out.

    Left out are data sets that cannot be read or downloaded, and ALS where implicit is not installed. A name that is
    none raises ConfigError.
    """
    datasets, left_out = {}, []
    for name in config.fit_datasets:
        try:
            datasets[name] = load_data(_settings(config, name))
        except DataError as error:
            left_out.append(f"fits of {name}: {error}")
    if datasets and not has_implicit():
        left_out.append("fits by ALS: implicit is not installed; pip install 'mrl[bench]'")
    return datasets, left_out


def measure_fits(config: BenchmarkConfig, datasets: dict[str, Interactions]) -> pl.DataFrame:
    """Fit every data set by every model, on the CPU with the most threads of `config`: a row a repeat.

    Columns as `mrl.benchmark.measure.measurement` gives them, interactions with validation, and `ndcg@20_w4` and so on:
    of test, at each width. ALS has that of the widest alone: its factors are in no order. Empty without data sets.
    seconds: of a recipe `wall_seconds` of its run, with search, evaluation and files; of ALS from interactions to
    factors, with its search where there is one. What is compiled was compiled before.
    """
    if not datasets:
        return pl.DataFrame()
    fits: dict[Case, Fit] = {
        ("default", "", PROJECT): partial(_fit_recipe, "default"),
        ("least_squares", "", PROJECT): partial(_fit_recipe, "least_squares"),
    }
    if has_implicit():
        fits["ALS", "", IMPLICIT] = _fit_als
        fits["ALS, searched", "", IMPLICIT] = _search_als
    small = hold_out(planted_interactions(200, 64, 2000), seed=config.seed)
    rows = []
    before = torch.get_num_threads()
    torch.set_num_threads(max(count for device, count in config.places() if device == "cpu"))
    try:
        for run in fits.values():
            run(config, "planted", small)  # compiles
        for name, data in datasets.items():
            whole = data.merge_valid()
            for repeat in range(config.repeats):
                for case, run in fits.items():
                    seconds, users, items = run(config, name, data)
                    widths = config.widths if case[2] == PROJECT else config.widths[-1:]
                    result = evaluate(users, items, data, widths=widths, ks=(20,))
                    row = measurement(name, whole, "fit", case, "cpu", torch.get_num_threads(), repeat, seconds)
                    rows.append(row | {f"ndcg@20_w{width}": result.value("ndcg@20", width) for width in widths})
    finally:
        torch.set_num_threads(before)
    return pl.DataFrame(rows, infer_schema_length=None)


def _settings(config: BenchmarkConfig, name: str, recipe: str = "default", run_dir: str = "") -> TrainConfig:
    planted = config.planted if name == "planted" else {}
    return TrainConfig(
        dataset=name, planted=planted, recipe=recipe, widths=config.widths, seed=config.seed, device="cpu",
        run_dir=run_dir, resume=False,
    )  # fmt: skip


def _fit_recipe(recipe: str, config: BenchmarkConfig, name: str, data: Interactions) -> tuple[float, Tensor, Tensor]:
    with TemporaryDirectory() as folder:
        run = fit(_settings(config, name, recipe, folder), data, progress=False)
        return run.environment["wall_seconds"], run.users, run.items


def _fit_als(config: BenchmarkConfig, name: str, data: Interactions) -> tuple[float, Tensor, Tensor]:
    started = time.perf_counter()
    factors = _als(config, data.merge_valid().train, *DEFAULTS)
    return time.perf_counter() - started, *factors


def _search_als(config: BenchmarkConfig, name: str, data: Interactions) -> tuple[float, Tensor, Tensor]:
    def validate(settings: tuple[float, float]) -> float:
        users, items = _als(config, data.train, *settings)
        return evaluate(users, items, data, split="valid", widths=config.widths[-1:], ks=(20,)).value("ndcg@20")

    started = time.perf_counter()
    factors = _als(config, data.merge_valid().train, *max(GRID, key=validate))
    return time.perf_counter() - started, *factors


def _als(config: BenchmarkConfig, positives: Positives, alpha: float, regularization: float) -> tuple[Tensor, Tensor]:
    """Factors of users (U, D) and items (I, D), float32, D the widest width: a score is their inner product."""
    from implicit.als import AlternatingLeastSquares
    from threadpoolctl import threadpool_limits

    ones = np.ones(len(positives), np.float32)
    shape = (positives.num_users, positives.num_items)
    matrix = csr_matrix((ones, positives.items.numpy(), positives.offsets.numpy()), shape)
    with threadpool_limits(1, "blas"):  # as implicit asks: each of its own threads calls BLAS
        model = AlternatingLeastSquares(
            factors=config.widths[-1], alpha=alpha, regularization=regularization, iterations=ITERATIONS,
            use_gpu=False, num_threads=torch.get_num_threads(), random_state=config.seed,
        )  # fmt: skip
        model.fit(matrix, show_progress=False)
    return torch.from_numpy(model.user_factors), torch.from_numpy(model.item_factors)
