"""The study: every contender on every data set, its settings by Optuna on validation, its figures from several seeds.

Protocol `honest`. The split of a data set is one for all. A search maximises NDCG@20 on validation, mean over the
widths (TPE: Bergstra, Bardenet, Bengio, Kégl, NIPS 2011; Akiba et al., "Optuna", KDD 2019), by as many trials for each
contender as for any other, within a budget of seconds; the first trial takes the contender's usual settings. Then the
model is refit on all of train with each seed and tested once. What is there is not made again, and several processes,
also those of another call, share the work: each trial and each fit is locked by whoever makes it.

`mrl.contenders` has the models, `mrl.study_folder` what is kept, `mrl.study_table` what is made of it.
"""

from __future__ import annotations

import importlib.util
import json
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

import filelock
import torch
from pydantic import ConfigDict, Field, NonNegativeInt, PositiveInt, model_validator
from pydantic.dataclasses import dataclass
from tqdm import tqdm

from mrl import study_jobs
from mrl.config import Positive, TrainConfig
from mrl.contenders import select
from mrl.errors import ConfigError, DataError
from mrl.fits import K, Task
from mrl.interactions import Interactions
from mrl.study_folder import Entry, Job, entry
from mrl.study_searches import take_over
from mrl.sweep import worker_pool
from mrl.train import load_data, pick_device
from mrl.widths import check_widths

PATIENCE = 2.0  # seconds before a piece of work that another process has is asked for again


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class StudyConfig:
    """Parameters of `notebooks/study.ipynb`.

    datasets: names or paths. contenders: names or rows of `mrl.contenders`, empty for all. trials: of each search.
    seconds: of each search (of CPU, on a GPU of the wall), summed over its trials; a training that is under way then
    stops early, and no other trial is begun.
    seeds: of the fits that are tested. widths: at which all are judged. epochs, patience, eval_every: of trainings.
    timing: one more fit of each, alone on all cores, for its seconds. processes: 0 for one a core, each of one thread.
    ours: the model that is compared with the others, empty for the first of ours. resamples: of the tests.
    seed: of the splits, of the search and of the resampling. planted: settings of that data set.
    searches: a table of searches to take over where there are none yet, such as reports/study-searches.csv, which is
    written with the others. run: False for only the tables of what is there. any_code: take figures made by earlier
    code where there are none of this one. folder: where all is kept. report: where the tables go, without the ending;
    empty for reports/study.
    """

    datasets: Annotated[tuple[str, ...], Field(min_length=1)] = ("ml100k", "phone", "tool", "ml-100k", "planted")
    contenders: tuple[str, ...] = ()
    trials: PositiveInt = 20
    seconds: Positive = 600.0
    seeds: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)] = (0, 1, 2, 3, 4)
    widths: tuple[PositiveInt, ...] = (4, 8, 16, 32, 64, 128)
    epochs: PositiveInt = 300
    patience: PositiveInt = 10
    eval_every: PositiveInt = 5
    timing: bool = True
    processes: NonNegativeInt = 0
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    ours: str = ""
    resamples: Annotated[int, Field(ge=100)] = 10_000
    seed: NonNegativeInt = 0
    planted: dict[str, Any] = Field(default_factory=dict)
    searches: str = ""
    run: bool = True
    any_code: bool = False
    folder: str = "runs/study"
    report: str = ""

    @model_validator(mode="after")
    def _whole(self) -> StudyConfig:
        check_widths(self.widths)
        select(self.contenders, self.widths)
        if self.ours and self.ours not in {each.model for each in select((), self.widths)}:
            raise ConfigError(f"ours={self.ours!r}: is no row of the study")
        return self

    def data(self, dataset: str) -> Interactions:
        """A data set with its validation part, the same for every contender and seed. DataError for a tiny one."""
        return _loaded(dataset, self.seed, json.dumps(self.planted if dataset == "planted" else {}))

    def entries(self, *, chosen: bool = True) -> list[Entry]:
        """Of the chosen contenders, or of all, on every data set."""
        found = select(self.contenders if chosen else (), self.widths)
        return [
            entry(Path(self.folder), dataset, self.data(dataset).fingerprint, contender, any_code=self.any_code)
            for dataset in self.datasets
            for contender in found
        ]

    def task(self, at: Entry, seed: int) -> Task:
        """What there is to fit on in a search; `refit_task` is for the end."""
        limits = {"epochs": self.epochs, "patience": self.patience, "eval_every": self.eval_every}
        return Task(self.data(at.dataset), at.contender.widths, seed, pick_device(self.device), **limits)

    def refit_task(self, at: Entry, seed: int) -> Task:
        """With validation back in train, except for a contender that searches by itself."""
        task = self.task(at, seed)
        return task if at.contender.trials == 0 else replace(task, data=task.data.merge_valid())


@lru_cache(maxsize=2)
def _loaded(dataset: str, seed: int, planted: str) -> Interactions:
    data = load_data(TrainConfig(dataset=dataset, seed=seed, planted=json.loads(planted)))
    if data.num_items < K:
        raise DataError(f"{data.name}: {data.num_items} items, where the study ranks lists of {K}")
    return data


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
