"""The study: every contender on every data set, its settings by Optuna on validation, its figures from several seeds.

Protocol `honest`. The split of a data set is one for all. A search maximises NDCG@20 on validation, mean over the
widths (TPE: Bergstra, Bardenet, Bengio, Kégl, NIPS 2011; Akiba et al., "Optuna", KDD 2019), by as many trials for each
contender as for any other, within a budget of seconds; the first trial takes the contender's usual settings. Then the
model is refit on all of train with each seed and tested once. What is there is not made again, and several processes,
also those of another call, share the work: each trial and each fit is locked by whoever makes it.

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
from mrl.study.folder import Entry, Job
from mrl.study.searches import take_over
from mrl.sweep import worker_pool

PATIENCE = 2.0  # seconds before a piece of work that another process has is asked for again


def run_study(config: StudyConfig, *, progress: bool = True) -> list[Entry]:
    """Do what is not done yet, and return the chosen entries. Stopped half-way, the next call goes on.

    Raises ConfigError where Optuna is not installed.
    """
    if importlib.util.find_spec("optuna") is None:
        raise ConfigError("the study searches with optuna, which is not installed; pip install 'mrl[study]'")
    entries = config.entries()
    if config.searches:
        take_over(entries, Path(config.searches))
    with _threads(1):
        _work(config, entries, progress)
    if config.timing:
        with _threads(os.cpu_count() or 1):
            _time(config, entries, progress)
    return entries


def _work(config: StudyConfig, entries: Sequence[Entry], progress: bool) -> None:
    processes = config.processes or os.cpu_count() or 1
    flying: dict[Future, Job] = {}
    elsewhere: dict[Job, float] = {}  # another process has it; until when it is left alone

    def to_do() -> list[Job]:
        budget = {"trials": config.trials, "seconds": config.seconds, "seeds": config.seeds}
        return [job for entry in entries for job in entry.jobs(**budget)]

    jobs = to_do()
    if not jobs:
        return
    with _pool(processes) as pool, tqdm(desc="study", unit="fit", disable=not progress) as bar:
        while jobs:
            now = time.monotonic()
            elsewhere = {job: until for job, until in elsewhere.items() if until > now}
            ready = [job for job in jobs if job not in elsewhere and job not in flying.values()]
            while ready and len(flying) < processes:
                # where nobody is at work yet first, so that a search is one trial after the other while it can be
                crowd = Counter(job[:2] for job in (*flying.values(), *elsewhere))
                job = min(ready, key=lambda job: crowd[job[:2]])
                ready.remove(job)
                flying[pool.submit(study_jobs.advance, config, job)] = job
            bar.total = bar.n + len(jobs)
            bar.refresh()
            if not flying:
                time.sleep(PATIENCE)
            for future in wait(flying, return_when=FIRST_COMPLETED).done:
                job, told = flying.pop(future), future.result()
                if told is None:
                    elsewhere[job] = time.monotonic() + PATIENCE
                else:
                    bar.update()
                    bar.set_postfix_str(f"{job.dataset} {job.contender} {job.kind} {job.number}: {told}")
            jobs = to_do()


def _time(config: StudyConfig, entries: Sequence[Entry], progress: bool) -> None:
    """One more fit of each with all cores to itself, one after the other, whoever else is at this study."""
    with filelock.FileLock(Path(config.folder) / ".timing.lock"), tqdm(desc="timing", disable=not progress) as bar:
        due = [at for at in entries if (best := at.best()) is not None and not at.timing_path(best).exists()]
        for at in due:
            bar.total = len(due)
            bar.set_postfix_str(f"{at.dataset} {at.contender.name}")
            study_jobs.time_fit(config, at)
            bar.update()


class _Here(Executor):
    """Work done at once, where it is asked for: an executor for one process."""

    def submit(self, function, /, *args, **options) -> Future:
        future: Future = Future()
        future.set_result(function(*args, **options))
        return future


def _pool(processes: int) -> Executor:
    return _Here() if processes == 1 else worker_pool(processes, threads=1)


@contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
