"""What a study is to do: its settings, and the data and experiments that follow from them."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from mrl.config import Positive, TrainConfig
from mrl.data import Interactions, check_held_out, load_data, pick_device, resolve_dataset
from mrl.data.datasets import dataset_stamp
from mrl.errors import ConfigError, DataError
from mrl.parameters import PathText, settings
from mrl.study.fitting import K, Task
from mrl.study.folder import Experiment, find_experiment
from mrl.study.models import StudyModel, select_models
from mrl.widths import check_widths


@settings
class StudyConfig:
    """Parameters of `notebooks/study.ipynb`.

    datasets: names or paths. models: names or rows of `mrl.study.models`, empty for all. trials: of each search.
    seconds: of each search (of CPU, on a GPU of the wall), summed over its trials; a training that is under way then
    stops early, and no other trial is begun.
    seeds: of the fits that are tested. widths: at which all are judged. epochs, patience, eval_every: of trainings.
    timing: one more fit of each, alone on all cores, for its seconds. processes: 0 for one a core, each of one thread.
    main: the model that is compared with the others, empty for the first recipe. resamples: of the tests.
    seed: of the splits, of the search and of the resampling. planted: settings of that data set.
    searches: a table of searches to take over where there are none yet, such as reports/study-searches.csv, which is
    written with the others. run: False for only the tables of what is there. any_code: take numbers made by earlier
    code where there are none of this one. folder: where all is kept. table: such as reports/study.csv, to write its
    page and LaTeX again; nothing is run then. report: where the tables go, without the ending; empty for reports/study.
    """

    datasets: Annotated[tuple[PathText, ...], Field(min_length=1)] = ("ml100k", "phone", "tool", "ml-100k", "planted")
    models: tuple[str, ...] = ()
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
    main: str = ""
    resamples: Annotated[int, Field(ge=100)] = 10_000
    seed: NonNegativeInt = 0
    planted: dict[str, Any] = Field(default_factory=dict)
    searches: PathText = ""
    run: bool = True
    any_code: bool = False
    folder: PathText = "runs/study"
    table: PathText = ""
    report: PathText = ""

    @model_validator(mode="after")
    def _check_names_and_widths(self) -> StudyConfig:
        check_widths(self.widths)
        select_models(self.models, self.widths)
        if self.main and self.main not in {model.model for model in select_models((), self.widths)}:
            raise ConfigError(f"main={self.main!r}: is no row of the study")
        return self

    def data(self, dataset: str) -> Interactions:
        """A data set with its validation part, the same for every model and seed. DataError for a tiny one."""
        planted = json.dumps(self.planted if dataset == "planted" else {})
        return _load(resolve_dataset(dataset), self.seed, planted, dataset_stamp(dataset))

    def experiments(self, *, all_models: bool = False) -> list[Experiment]:
        """The chosen models, or all, on every data set."""
        models = select_models(() if all_models else self.models, self.widths)
        return [self.experiment(dataset, model) for dataset in self.datasets for model in models]

    def experiment(self, dataset: str, model: StudyModel) -> Experiment:
        """One model on one data set."""
        fingerprint = self.data(dataset).fingerprint
        return find_experiment(Path(self.folder), dataset, fingerprint, model, any_code=self.any_code)

    def search_task(self, experiment: Experiment, seed: int) -> Task:
        """What there is to fit on in a search."""
        limits = {"epochs": self.epochs, "patience": self.patience, "eval_every": self.eval_every}
        data, widths = self.data(experiment.dataset), experiment.model.widths
        return Task(data, widths, seed, pick_device(self.device), **limits)

    def refit_task(self, experiment: Experiment, seed: int) -> Task:
        """With validation back in train, except for a model that splits it off by itself."""
        task = self.search_task(experiment, seed)
        return task if experiment.model.max_trials == 0 else replace(task, data=task.data.merge_valid())


@lru_cache(maxsize=2)
def _load(dataset: str, seed: int, planted: str, stamp: tuple) -> Interactions:
    """stamp: what changes with the files, so that changed ones are loaded again."""
    data = load_data(TrainConfig(dataset=dataset, seed=seed, planted=json.loads(planted)))
    if data.num_items < K:
        raise DataError(f"{data.name}: {data.num_items} items, where the study ranks lists of {K}")
    check_held_out(data, "auto", "honest")
    return data
