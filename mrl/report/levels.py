"""Do the levels mean something? What each width knows of a taxonomy, of several models, on several data sets.

What `notebooks/levels.ipynb` calls: the models are trained where they are missing, `mrl.levels` measures them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import polars as pl
from pydantic import Field, NonNegativeInt, PositiveInt, model_validator
from tqdm import tqdm

from mrl.config import TrainConfig
from mrl.controls.runs import ControlName, ControlsConfig, run_controls
from mrl.data import dataset_name
from mrl.errors import ConfigError
from mrl.hierarchy import SAMPLE, widths_of
from mrl.levels import measure_run
from mrl.levels.study import SUMMARY
from mrl.parameters import PathText, as_config, settings
from mrl.report.paper import write_beside
from mrl.report.prototypes import PrototypesConfig, measure_prototypes
from mrl.report.stages import PROJECT
from mrl.runs import Run, default_path
from mrl.sweep import finished
from mrl.train import fit


@settings
class RecordedConfig:
    """What `LevelsConfig.recorded` says of a data set: settings and controls, where none are given; prototypes."""

    settings: dict[str, Any] = Field(default_factory=dict)
    controls: dict[str, Any] = Field(default_factory=dict)
    prototypes: PrototypesConfig = Field(default_factory=PrototypesConfig)


@settings
class LevelsConfig:
    """Parameters of `notebooks/levels.ipynb`.

    datasets, seeds: of the models; what is missing is trained. models: beside the nested one, those of
    `mrl.controls.runs.CONTROLS` that have several widths. settings: by data set, further parameters of `train.ipynb`.
    controls: by data set, further parameters of `controls.ipynb`, such as trained or ials_settings.
    recorded: a JSON file of both by data set, for data sets that are not in them, and of how prototypes are studied
    (`RecordedConfig`); empty for the project's `reports/levels.json`, which the committed tables are made by.
    prototypes: whether nested prototypes are studied, too.
    processes: trainings at once, 0 for one a core. sample: items and users at most that are measured.
    runs: folder of the run directories. folder: of the figures; empty for the project's `figures/`. table: the CSV
    file; empty for the project's `reports/levels.csv`; prototypes go beside it. Rows of other data sets in them stay.
    """

    datasets: Annotated[tuple[PathText, ...], Field(min_length=1)] = ("planted", "ml-100k", "completejourney")
    seeds: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)] = (0, 1, 2)
    models: tuple[ControlName, ...] = ("mrl4rec", "shared", "bpr", "bpr-rotated", "bpr-shuffled", "svd", "ials")
    settings: dict[str, dict[str, Any]] = Field(default_factory=dict)
    controls: dict[str, dict[str, Any]] = Field(default_factory=dict)
    recorded: PathText = ""
    prototypes: bool = False
    processes: NonNegativeInt = 0
    sample: PositiveInt = SAMPLE
    runs: PathText = "runs"
    folder: PathText = ""
    table: PathText = ""

    @model_validator(mode="after")
    def _of_these_data_sets(self) -> LevelsConfig:
        for name in ("settings", "controls"):
            if others := [dataset for dataset in getattr(self, name) if dataset not in self.datasets]:
                raise ConfigError(f"{name}: {others[0]!r} is not among datasets={list(self.datasets)}")
        without = [model for model in self.models if model in ("alone", "ease", "popularity")]
        if without:
            raise ConfigError(f"models: {without[0]!r} has no widths to compare; leave it out")
        return self

    @property
    def target(self) -> Path:
        return Path(self.table) if self.table else PROJECT / "reports" / "levels.csv"

    @property
    def stem(self) -> Path:
        """Where the figures go, without the ending."""
        return (Path(self.folder) if self.folder else PROJECT / "figures") / "levels"

    def of(self, dataset: str) -> RecordedConfig:
        """What is given for a data set, and what is recorded of it where nothing is given."""
        path = Path(self.recorded) if self.recorded else PROJECT / "reports" / "levels.json"
        is_there = self.recorded or path.exists()  # a wheel comes without the project's reports
        found = read_recorded(path).get(dataset, {}) if is_there else {}
        given = {name: each[dataset] for name in ("settings", "controls") if dataset in (each := getattr(self, name))}
        return as_config(RecordedConfig, {**found, **given})

    def training(self, dataset: str) -> TrainConfig:
        """The settings of the nested model of the first seed."""
        config = as_config(TrainConfig, {"dataset": dataset, "seed": self.seeds[0], **self.of(dataset).settings})
        place = default_path(dataset_name(dataset), config.run_name, config.seed).name
        return config.with_settings(run_dir=config.run_dir or str(Path(self.runs) / place))


def read_recorded(path: Path) -> dict[str, Any]:
    """Mappings by data set, from JSON; ConfigError where there are none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"recorded={str(path)!r}: cannot be read ({error}); give a JSON file") from None
    if not isinstance(found, dict) or not all(isinstance(each, dict) for each in found.values()):
        raise ConfigError(f"recorded={str(path)!r}: is no mapping by data set; write {{'planted': {{…}}}}")
    return found


def train_models(config: LevelsConfig, dataset: str) -> list[Run]:
    """The nested models of all seeds, then the others; those that are there with the same settings are only loaded."""
    training = config.training(dataset)
    nested = finished(training) or fit(training)
    options = {"run": str(nested.path), "controls": config.models, "seeds": config.seeds}
    options |= {"processes": config.processes, **config.of(dataset).controls}
    return run_controls(as_config(ControlsConfig, options))


def measure_models(config: LevelsConfig) -> pl.DataFrame:
    """What the vectors of all models know (`mrl.levels.measure_run`): data set by data set, trained where missing."""
    tables = []
    for dataset in config.datasets:
        runs = train_models(config, dataset)
        for run in tqdm(runs, desc=f"levels of {dataset}", unit="run"):
            tables.append(measure_run(run, widths=widths_of(runs[0]), sample=config.sample))
    return pl.concat(tables)


def measure_all_prototypes(config: LevelsConfig) -> pl.DataFrame:
    """Prototypes of every data set (`mrl.report.prototypes`), as recorded of it; their runs go beside the others."""
    tables = []
    for dataset in tqdm(config.datasets, desc="prototypes", unit="data set"):
        asked = config.of(dataset)
        folder = Path(config.runs) / f"{dataset_name(dataset)}-prototypes"
        given = {"dataset": dataset, **asked.settings}
        tables.append(measure_prototypes(asked.prototypes, given, config.seeds, folder))
    return pl.concat(tables)


def write_levels(summary: pl.DataFrame, path: Path) -> Path:
    """Write the summary as CSV, beside the rows of other data sets that the file has; its path."""
    return write_beside(summary, path, SUMMARY, "levels")
