"""Many runs: each its own process with its share of the cores, finished ones not trained again."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from multiprocessing.sharedctypes import Synchronized

import torch
from tqdm import tqdm

from mrl.config import TrainConfig, differing
from mrl.data import DATA_SETTINGS, load_data, resolve_dataset
from mrl.errors import ConfigError
from mrl.runs import Run, load, run_path
from mrl.train import fit


def finished(config: TrainConfig, known: dict[str, str] | None = None) -> Run | None:
    """The run of these very settings and of the data as they are now, if it is there and complete; None if it is to be
    trained. The data are loaded for that, unless `known` has them: see `current_fingerprint`.
    """
    path = run_path(config)
    if not (path / "metrics.csv").is_file():
        return None
    run = load(path)
    if differing(run.asked, config.to_dict()):
        return None
    return run if run.environment.get("fingerprint") == current_fingerprint(config, known) else None


def current_fingerprint(config: TrainConfig, known: dict[str, str] | None = None) -> str:
    """The fingerprint of the data of a config as they are now: they are loaded for it.

    known: fingerprints by the settings of the data, looked up and added to: one dict for one sweep, for files change.
    """
    known = {} if known is None else known
    settings = {name: config.setting(name) for name in DATA_SETTINGS}
    key = json.dumps(settings | {"dataset": resolve_dataset(config.dataset)})
    if key not in known:
        known[key] = load_data(config).fingerprint
    return known[key]


def fit_all(configs: Iterable[TrainConfig], *, processes: int | None = None, progress: bool = True) -> Iterator[Run]:
    """Fit every config, several at once, and yield the runs as they get done.

    processes: one a GPU by default, or one a core where there is none, each with an equal share of the threads; with
    device="auto" they take turns on the GPUs. Stopped half-way, the next call goes on: finished runs are loaded and
    interrupted ones resumed. Every data set is loaded once to see whether it is still that of a finished run.
    ConfigError where two configs that are not the same go to one directory.
    """
    configs, known = _by_directory(configs), {}
    cores = os.cpu_count() or 1
    processes = max(1, min(processes or torch.cuda.device_count() or cores, len(configs)))
    open_configs = []
    with tqdm(total=len(configs), desc="runs", unit="run", disable=not progress) as bar:
        for config in configs:
            run = finished(config, known)
            if run is None:
                open_configs.append(config)
            else:
                bar.update()
                yield run
        if not open_configs:
            return
        with worker_pool(processes, threads=max(1, cores // processes)) as pool:
            for done in as_completed([pool.submit(_fit, config) for config in open_configs]):
                path = done.result()
                bar.set_postfix_str(path.name, refresh=False)
                bar.update()
                yield load(path)


def _by_directory(configs: Iterable[TrainConfig]) -> list[TrainConfig]:
    """The configs with absolute paths, one for each run directory."""
    placed: dict[str, TrainConfig] = {}
    for config in configs:
        path = str(run_path(config).resolve())
        config = replace(config, dataset=resolve_dataset(config.dataset), run_dir=path)
        first = placed.setdefault(path, config)
        differences = [*differing(first.to_dict(), config.to_dict())]
        if differences or first.dataset != config.dataset:
            raise ConfigError(
                f"configs that differ in {(differences or ['dataset'])[0]} go to {path}; give each a run_dir or name"
            )
    return list(placed.values())


def worker_pool(processes: int, *, threads: int) -> ProcessPoolExecutor:
    """Processes of so many threads each, which take turns on the GPUs, where there are any: `cuda` is one's own."""
    # spawn, not fork: a child must not inherit the threads of torch and numba.
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(processes, context, _start_worker, (context.Value("i", 0), threads))


def _start_worker(started: Synchronized, threads: int) -> None:
    torch.set_num_threads(threads)
    with started.get_lock():
        number = started.value
        started.value += 1
    if gpus := torch.cuda.device_count():
        torch.cuda.set_device(number % gpus)


def _fit(config: TrainConfig):
    return fit(config, progress=False).path
