"""What a study is to do: its settings, and the data and experiments that follow from them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from mrl.config import Positive
from mrl.controls.fitting import SEARCHED_INTERACTIONS, Task, sample_for_search
from mrl.data import Interactions, pick_device
from mrl.errors import ConfigError
from mrl.parameters import PathText, settings
from mrl.report.stages import PROJECT
from mrl.study.datasets import DATASETS, load_split, split_facts
from mrl.study.folder import Experiment, Job, find_experiment
from mrl.study.models import StudyModel, select_models
from mrl.widths import check_widths


@settings
class StudyConfig:
    """Parameters of `notebooks/study.ipynb`.

    datasets: names or paths, empty for all of `mrl.study.datasets`. models: names or rows of `mrl.study.models`, empty
    for all. trials: of each search. seconds: of each search (of CPU, on a GPU of the wall), in equal shares for its
    trials: a training that has had its share stops early, and the next trial is made all the same. Half of it is for
    one more training of all users where trials have a sample of them.
    seeds: of the fits that are tested. widths: at which models are judged, as far as a data set's smaller side reaches.
    Models that are trained are made at fewer of both, with fewer trials (`mrl.study.models`). epochs, patience,
    eval_every: of trainings. processes: 0 for one a core, each of one thread. hours: of this call, 0 for no limit; then
    nothing more is begun, and the next call goes on.
    main: the model that is compared with the others, empty for the first recipe. resamples: of the tests.
    seed: of the splits, of the search and of the resampling. planted: settings of that data set.
    run: False for only the tables of what is there. dry_run: True for only how long it would take. any_code: take
    numbers made by earlier code where there are none of this one. folder: of working files. table: such as
    reports/study.csv, to write its page and LaTeX again; nothing is run then. report: where the tables go, without the
    ending; empty for reports/study. What is kept beside them (`mrl.study.kept`) is gone on from.
    """

    datasets: tuple[PathText, ...] = ()
    models: tuple[str, ...] = ()
    trials: PositiveInt = 8
    seconds: Positive = 1200.0
    seeds: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)] = (0, 1, 2, 3, 4)
    widths: tuple[PositiveInt, ...] = (4, 8, 16, 32, 64, 128, 256, 512)
    epochs: PositiveInt = 300
    patience: PositiveInt = 4
    eval_every: PositiveInt = 5
    processes: NonNegativeInt = 0
    hours: Annotated[float, Field(ge=0)] = 0.0
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    main: str = ""
    resamples: Annotated[int, Field(ge=100)] = 10_000
    seed: NonNegativeInt = 0
    planted: dict[str, Any] = Field(default_factory=dict)
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

    def _facts(self, dataset: str) -> tuple[str, int, int]:
        return split_facts(dataset, self.seed, self.planted)

    def widths_on(self, dataset: str) -> tuple[int, ...]:
        """The widths up to the smaller side of a data set, as no matrix has more axes; at least the narrowest."""
        _, smaller, _ = self._facts(dataset)
        return tuple(width for width in self.widths if width <= smaller) or self.widths[:1]

    def models_on(self, dataset: str, *, all_models: bool = False) -> list[StudyModel]:
        """The chosen models, or all, at the widths of a data set."""
        models = select_models((), self.widths_on(dataset))
        if is_large := self._facts(dataset)[2] > SEARCHED_INTERACTIONS:
            models = [model.on_large_data() for model in models]
        left_out = is_large and not self.models
        return [
            model
            for model in models
            if all_models or (model.is_among(self.models) and not (left_out and model.is_dear))
        ]

    def experiments(self, *, all_models: bool = False, any_code: bool | None = None) -> list[Experiment]:
        """The chosen models, or all, on every data set. any_code: in place of the setting."""
        return [
            self.experiment(dataset, model, any_code=any_code)
            for dataset in self.datasets
            for model in self.models_on(dataset, all_models=all_models)
        ]

    def experiment(self, dataset: str, model: StudyModel, *, any_code: bool | None = None) -> Experiment:
        """One model on one data set."""
        fingerprint, *_ = self._facts(dataset)
        any_code = self.any_code if any_code is None else any_code
        return find_experiment(Path(self.folder), dataset, fingerprint, model, any_code=any_code)

    def jobs(self, experiment: Experiment) -> list[Job]:
        """What is still to do of it."""
        return experiment.jobs(trials=self.max_trials(experiment.model), seeds=self.seeds)

    def max_trials(self, model: StudyModel) -> int:
        """Of the search of a model."""
        return self.trials if model.max_trials is None else min(self.trials, model.max_trials)

    def search_task(self, experiment: Experiment, *, whole: bool = False) -> Task:
        """What there is to fit on in a search. whole: all users, where a search has a sample of them."""
        model, data = experiment.model, self.data(experiment.dataset)
        if not model.searches_by_itself:
            data = sample_for_search(data, self.seed, whole=whole or not model.on_sample)
        return self._task(experiment, data, self.seed)

    def refit_task(self, experiment: Experiment, seed: int) -> Task:
        """With validation back in train."""
        return self._task(experiment, self.data(experiment.dataset).merge_valid(), seed)

    def _task(self, experiment: Experiment, data: Interactions, seed: int) -> Task:
        limits = {"epochs": self.epochs, "patience": self.patience, "eval_every": self.eval_every}
        return Task(data, experiment.model.widths, seed, pick_device(self.device), **limits)

    @property
    def stem(self) -> Path:
        """Of the files that are written."""
        return Path(self.report) if self.report else PROJECT / "reports" / "study"
