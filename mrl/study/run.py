"""The study: every model on every data set, its settings by Optuna on validation, its numbers from several seeds.

Protocol `honest`. The split of a data set is one for all. A search maximises NDCG@20 on validation, mean over the
widths (TPE: Bergstra, Bardenet, Bengio, Kégl, NIPS 2011; Akiba et al., "Optuna", KDD 2019), by as many trials for each
model as for any other, within a budget of seconds; the first trial takes the model's usual settings. Then the model is
refit on all of train with each seed and tested once. What is there is not made again, and several processes, also those
of another call, share the work: each trial and each fit is locked by whoever makes it.

`mrl.study.models` has the models, `mrl.study.folder` what is kept, `mrl.study.tables` what is made of it.
"""

from __future__ import annotations

import importlib.util
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from contextlib import contextmanager
from pathlib import Path

import filelock
import torch
from tqdm import tqdm

from mrl.errors import ConfigError
from mrl.study import jobs as study_jobs
from mrl.study.config import StudyConfig
from mrl.study.folder import Experiment, Job
from mrl.study.searches import take_over
from mrl.sweep import worker_pool

RETRY_SECONDS = 2.0  # before a job that another process has is tried again


def run_study(config: StudyConfig, *, progress: bool = True) -> list[Experiment]:
    """Do what is not done yet, and return the chosen experiments. Stopped half-way, the next call goes on.

    Raises ConfigError where Optuna is not installed.
    """
    if importlib.util.find_spec("optuna") is None:
        raise ConfigError("the study searches with optuna, which is not installed; pip install 'mrl[study]'")
    experiments = config.experiments()
    if config.searches:
        take_over(experiments, Path(config.searches))
    with _threads(1):
        _do_jobs(config, experiments, progress)
    if config.timing:
        with _threads(os.cpu_count() or 1):
            _time_fits(config, experiments, progress)
    return experiments


def _do_jobs(config: StudyConfig, experiments: Sequence[Experiment], progress: bool) -> None:
    """Do jobs until none is left.

    What is left is read from the folder each time. So a job is in one of three states: running here, left alone for
    RETRY_SECONDS because another process has its lock, or ready to be given to a process that is free.
    """
    processes = config.processes or os.cpu_count() or 1
    running: dict[Future, Job] = {}
    retry_at: dict[Job, float] = {}  # of jobs that another process has

    def to_do() -> list[Job]:
        return [job for experiment in experiments for job in config.jobs(experiment)]

    if not (jobs := to_do()):
        return
    executor = _InlineExecutor() if processes == 1 else worker_pool(processes, threads=1)
    with executor as pool, tqdm(desc="study", unit="fit", disable=not progress) as bar:
        while jobs:
            now = time.monotonic()
            retry_at = {job: moment for job, moment in retry_at.items() if moment > now}
            ready = [job for job in jobs if job not in retry_at and job not in running.values()]
            while ready and len(running) < processes:
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


def _time_fits(config: StudyConfig, experiments: Sequence[Experiment], progress: bool) -> None:
    """One more fit of each with all cores to itself, one after the other, whoever else is at this study."""
    with filelock.FileLock(Path(config.folder) / ".timing.lock"), tqdm(desc="timing", disable=not progress) as bar:
        due = [
            experiment
            for experiment in experiments
            if (best := experiment.best_settings()) is not None and not experiment.timing_path(best).exists()
        ]
        for experiment in due:
            bar.total = len(due)
            bar.set_postfix_str(f"{experiment.dataset} {experiment.model.name}")
            study_jobs.time_fit(config, experiment)
            bar.update()


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
