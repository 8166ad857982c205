"""What a study is to do: its settings, and the data and experiments that follow from them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from mrl.config import Positive
from mrl.data import Interactions, pick_device
from mrl.errors import ConfigError
from mrl.parameters import PathText, settings
from mrl.study.datasets import DATASETS, load_split
from mrl.study.fitting import Task
from mrl.study.folder import Experiment, Job, find_experiment
from mrl.study.models import StudyModel, select_models
from mrl.widths import check_widths


@settings
class StudyConfig:
    """Parameters of `notebooks/study.ipynb`.

    datasets: names or paths, empty for all of `mrl.study.datasets`. models: names or rows of `mrl.study.models`, empty
    for all. trials: of each search. seconds: of each search (of CPU, on a GPU of the wall), summed over its trials; a
    training that is under way then stops early, and no other trial is begun.
    seeds: of the fits that are tested. widths: at which models are judged, as far as a data set's smaller side reaches.
    Models that are trained are made at fewer of both (`mrl.study.models`). epochs, patience, eval_every: of trainings.
    timing: one more fit of each, alone on all cores, for its seconds. processes: 0 for one a core, each of one thread.
    main: the model that is compared with the others, empty for the first recipe. resamples: of the tests.
    seed: of the splits, of the search and of the resampling. planted: settings of that data set.
    searches: a table of searches to take over where there are none yet, such as reports/study-searches.csv, which is
    written with the others. run: False for only the tables of what is there. dry_run: True for nothing but how long it
    would take. any_code: take numbers made by earlier code where there are none of this one. folder: where all is kept.
    table: such as reports/study.csv, to write its page and LaTeX again; nothing is run then. report: where the tables
    go, without the ending; empty for reports/study.
    """

    datasets: tuple[PathText, ...] = ()
    models: tuple[str, ...] = ()
    trials: PositiveInt = 8
    seconds: Positive = 3600.0
    seeds: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)] = (0, 1, 2, 3, 4)
    widths: tuple[PositiveInt, ...] = (4, 8, 16, 32, 64, 128, 256, 512)
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
    dry_run: bool = False
    any_code: bool = False
    folder: PathText = "runs/study"
    table: PathText = ""
    report: PathText = ""

    @model_validator(mode="after")
    def _check_names_and_widths(self) -> StudyConfig:
        if not self.datasets:
            object.__setattr__(self, "datasets", tuple(DATASETS))
        check_widths(self.widths)
        select_models(self.models, self.widths)
        if self.main and self.main not in {model.model for model in select_models((), self.widths)}:
            raise ConfigError(f"main={self.main!r}: is no row of the study")
        return self

    def data(self, dataset: str) -> Interactions:
        """A data set with its validation part, the same for every model and seed. DataError for a tiny one."""
        return load_split(dataset, self.seed, self.planted)

    def widths_on(self, dataset: str) -> tuple[int, ...]:
        """The widths up to the smaller side of a data set, as no matrix has more axes; at least the narrowest."""
        data = self.data(dataset)
        smaller = min(data.num_users, data.num_items)
        return tuple(width for width in self.widths if width <= smaller) or self.widths[:1]

    def models_on(self, dataset: str, *, all_models: bool = False) -> list[StudyModel]:
        """The chosen models, or all, at the widths of a data set."""
        models = select_models((), self.widths_on(dataset))
        return [model for model in models if all_models or model.is_among(self.models)]

    def experiments(self, *, all_models: bool = False) -> list[Experiment]:
        """The chosen models, or all, on every data set."""
        return [
            self.experiment(dataset, model)
            for dataset in self.datasets
            for model in self.models_on(dataset, all_models=all_models)
        ]

    def experiment(self, dataset: str, model: StudyModel) -> Experiment:
        """One model on one data set."""
        fingerprint = self.data(dataset).fingerprint
        return find_experiment(Path(self.folder), dataset, fingerprint, model, any_code=self.any_code)

    def jobs(self, experiment: Experiment) -> list[Job]:
        """What is still to do of it."""
        return experiment.jobs(trials=self.trials, seconds=self.seconds, seeds=self.seeds)

    def search_task(self, experiment: Experiment, seed: int) -> Task:
        """What there is to fit on in a search."""
        limits = {"epochs": self.epochs, "patience": self.patience, "eval_every": self.eval_every}
        data, widths = self.data(experiment.dataset), experiment.model.widths
        return Task(data, widths, seed, pick_device(self.device), **limits)

    def refit_task(self, experiment: Experiment, seed: int) -> Task:
        """With validation back in train."""
        task = self.search_task(experiment, seed)
        return replace(task, data=task.data.merge_valid())
