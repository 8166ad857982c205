"""The study: every model on every data set, its settings by Optuna on validation, its numbers from several seeds.

Protocol `honest`. The split of a data set is one for all. A search maximises NDCG@20 on validation, mean over the
widths (TPE: Bergstra, Bardenet, Bengio, Kégl, NIPS 2011; Akiba et al., "Optuna", KDD 2019), by so many trials (fewer of
models that are trained), each with its share of a budget of seconds; the first trial takes the model's usual settings.
Of large data a search has a sample of the users. Then the model is refit on all of train with each seed and
tested once. What is there is not made again, and several processes, also those of another call, share the work: each
trial and each fit is locked by whoever makes it. What is done is kept beside the tables every KEEP_SECONDS.

`mrl.study.models` has the models, `mrl.study.folder` what is kept, `mrl.study.tables` what is made of it.
"""

from __future__ import annotations

import importlib.util
import math
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from contextlib import contextmanager

import torch
from tqdm import tqdm

from mrl.errors import ConfigError
from mrl.study import jobs as study_jobs
from mrl.study.config import StudyConfig
from mrl.study.folder import Experiment, Job
from mrl.study.kept import restore
from mrl.study.tables import keep_all, lost_values
from mrl.sweep import worker_pool

RETRY_SECONDS = 2.0  # before a job that another process has is tried again
KEEP_SECONDS = 300.0  # after which what is done is kept beside the tables


def run_study(config: StudyConfig, *, progress: bool = True) -> list[Experiment]:
    """Do what is not done yet, for so many hours as the config says, and return the chosen experiments. Stopped
    half-way, the next call goes on.

    Raises ConfigError where Optuna is not installed.
    """
    if importlib.util.find_spec("optuna") is None:
        raise ConfigError("the study searches with optuna, which is not installed; pip install 'mrl[study]'")
    restore(config)
    experiments = config.experiments()
    end = time.monotonic() + 3600 * config.hours if config.hours else math.inf
    try:
        with _threads(1):
            _do_jobs(config, experiments, progress, end)
            if not any(map(config.jobs, experiments)) and (again := lost_values(config)):
                for experiment in again:
                    experiment.forget_fits()
                _do_jobs(config, again, progress, end)
    finally:
        keep_all(config)
    return experiments


def _do_jobs(config: StudyConfig, experiments: Sequence[Experiment], progress: bool, end: float) -> None:
    """Do jobs until none is left, or the clock is at `end`: then what has begun is finished.

    What is left is read from the folder each time. So a job is in one of three states: running here, left alone for
    RETRY_SECONDS because another process has its lock, or ready to be given to a process that is free.
    """
    processes = config.processes or os.cpu_count() or 1
    running: dict[Future, Job] = {}
    retry_at: dict[Job, float] = {}  # of jobs that another process has
    kept_at = time.monotonic()

    def to_do() -> list[Job]:
        return [job for experiment in experiments for job in config.jobs(experiment)]

    if not (jobs := to_do()):
        return
    executor = _InlineExecutor() if processes == 1 else worker_pool(processes, threads=1)
    with executor as pool, tqdm(desc="study", unit="fit", disable=not progress) as bar:
        while jobs and (running or time.monotonic() < end):
            now = time.monotonic()
            retry_at = {job: moment for job, moment in retry_at.items() if moment > now}
            ready = [job for job in jobs if job not in retry_at and job not in running.values()]
            while ready and len(running) < processes and now < end:
                # where nobody is at work yet first, so that a search is one trial after the other while it can be
                workers = Counter(job[:2] for job in (*running.values(), *retry_at))
                job = min(ready, key=lambda job: workers[job[:2]])
                ready.remove(job)
                running[pool.submit(study_jobs.do_job, config, job)] = job
            bar.total = bar.n + len(jobs)
            bar.refresh()
            if not running:
                time.sleep(RETRY_SECONDS)
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                job, outcome = running.pop(future), future.result()
                if outcome is None:
                    retry_at[job] = time.monotonic() + RETRY_SECONDS
                else:
                    bar.update()
                    bar.set_postfix_str(f"{job.dataset} {job.model} {job.kind} {job.number}: {outcome}")
            jobs = to_do()
            if time.monotonic() > kept_at + KEEP_SECONDS:
                keep_all(config)
                kept_at = time.monotonic()


class _InlineExecutor(Executor):
    """An executor for one process: work is done at once, where it is submitted."""

    def submit(self, function, /, *args, **options) -> Future:
        future: Future = Future()
        future.set_result(function(*args, **options))
        return future


@contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
