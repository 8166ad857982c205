"""What a study is to do: its settings, and the data and work that follow from them."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from mrl.config import Positive, TrainConfig
from mrl.data.interactions import Interactions
from mrl.data.load import load_data, pick_device
from mrl.errors import ConfigError, DataError
from mrl.parameters import settings
from mrl.study.fitting import K, Task
from mrl.study.folder import Entry, entry
from mrl.study.models import select
from mrl.widths import check_widths


@settings
class StudyConfig:
    """Parameters of `notebooks/study.ipynb`.

    datasets: names or paths. contenders: names or rows of `mrl.study.models`, empty for all. trials: of each search.
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
