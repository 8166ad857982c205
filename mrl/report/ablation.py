"""The default recipe at a glance: how much each of its stages gives at each width, on test.

What `notebooks/ablation.ipynb` calls. The run's own settings are fitted again, stage by stage; its training is the run
itself. A stage that the run does without has no values: it stays out of the picture, and the sentences say so. The
settings were chosen for the whole recipe: a shorter one, with settings of its own, would lose less.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import polars as pl
import polars.selectors as cs
from matplotlib.figure import Figure
from pydantic import Field, NonNegativeInt

from mrl.analysis.comparison import load_run_data
from mrl.config import TrainConfig
from mrl.data import dataset_name, pick_device
from mrl.errors import RunError
from mrl.evaluation import evaluate
from mrl.figures import draw_stages
from mrl.least_squares.stages import TRAINED, refit_stages, used_stages
from mrl.parameters import PathText, as_config, settings
from mrl.report.code import RECIPE, code_version
from mrl.report.paper import write_beside
from mrl.report.stages import PROJECT, training_config
from mrl.runs import Run
from mrl.words import STAGES, listed, metric_title

K = 20
STEPS = {  # what leads to a stage, as sentences call it
    "nested": "nested least squares", "propagated": "propagation", "rotated": "the rotation", TRAINED: "the training",
}  # fmt: skip
SCHEMA = {
    "dataset": pl.String, "recipe": pl.String, "code": pl.String, "protocol": pl.String, "seed": pl.Int64,
    "stage": pl.String,
    "width": pl.Int64, "metric": pl.String, "k": pl.Int64, "value": pl.Float64, "gain": pl.Float64,
    "epochs": pl.Int64, "epochs_tried": pl.Int64, "gain_on_validation": pl.Float64,
}  # fmt: skip


@settings
class AblationConfig:
    """Parameters of `notebooks/ablation.ipynb`.

    run: a run directory of the recipe default or least_squares. Empty: that of dataset, seed and settings (further
    parameters of `train.ipynb`), trained where it is missing. metric: that is drawn and told; recall and ndcg are
    always written. folder: of the figures; empty for the project's `figures/`. table: the CSV file; empty for the
    project's `reports/stages.csv`. Rows that it has of other data sets stay.
    """

    dataset: PathText = "ml-100k"
    run: PathText = ""
    seed: NonNegativeInt = 0
    settings: dict[str, Any] = Field(default_factory=dict)
    metric: Literal["recall", "ndcg"] = "ndcg"
    folder: PathText = ""
    table: PathText = ""

    @property
    def training(self) -> TrainConfig:
        """The settings of the run, where none is given."""
        return training_config(self.settings, dataset=self.dataset, seed=self.seed)

    @property
    def target(self) -> Path:
        return Path(self.table) if self.table else PROJECT / "reports" / "stages.csv"

    def stem(self, run: Run) -> Path:
        """Where the figure of a run goes, without the ending."""
        folder = Path(self.folder) if self.folder else PROJECT / "figures"
        return folder / f"{dataset_name(run.config['dataset'])}-stages"


def measure_stages(run: Run) -> pl.DataFrame:
    """Recall and NDCG on test after each stage of a finished run, at its widths: the columns of `SCHEMA`.

    value, gain: null of a stage that the run does without; gain: over the stage before, as a share of it. epochs: of
    training that the run kept, of epochs_tried; gain_on_validation: of the best of these over no training, of what
    early stopping looks at, as a share; null where none was tried. code: of the recipe (`mrl.report.code`). Raises
    RunError where the run has no stages or its data are not the same any more.
    """
    if run.config.get("recipe") not in ("default", "least_squares") or "chosen" not in run.environment:
        raise RunError(f"{run.path}: has no stages; give a run of the recipe default or least_squares")
    data = load_run_data(run)
    config = as_config(TrainConfig, run.config).with_settings(**run.environment["chosen"])
    train = data.merge_valid().train if config.protocol == "honest" else data.train
    stages = refit_stages(config, train.to(pick_device(config.device)))
    epochs, used = run.environment["best_epoch"], used_stages(config)
    vectors = {stage: tables for stage, tables in stages if stage in used}
    if epochs:
        vectors[TRAINED] = run.users, run.items
    facts = {"dataset": data.name, "recipe": config.recipe, "protocol": config.protocol, "seed": config.seed}
    facts |= {"code": code_version(RECIPE)}
    facts |= {"epochs": epochs} | _tried_training(run)
    tables = [
        evaluate(*vectors[stage], data, split="test", widths=config.widths, ks=(K,)).table.with_columns(
            stage=pl.lit(stage)
        )
        for stage in vectors
    ]
    measured = pl.concat(tables).filter(pl.col("metric").is_in(["recall", "ndcg"]))
    cells = measured.select("width", "metric", "k").unique(maintain_order=True)
    table = pl.DataFrame({"stage": list(STAGES)}).join(cells, how="cross", maintain_order="left_right")
    keys = ["stage", "width", "metric", "k"]
    table = table.join(measured, on=keys, how="left", maintain_order="left")
    table = table.with_columns(**{name: pl.lit(value, dtype=SCHEMA[name]) for name, value in facts.items()})
    return add_gains(table).with_columns(cs.float().round(6)).select(pl.col(name).cast(SCHEMA[name]) for name in SCHEMA)


def add_gains(table: pl.DataFrame) -> pl.DataFrame:
    """The table with the column gain: of value over that of the stage before it, of those that have one."""
    before = pl.col("value").forward_fill().shift(1).over("metric", "width")
    return table.with_columns(gain=pl.when(before > 0).then(pl.col("value") / before - 1))


def _tried_training(run: Run) -> dict[str, Any]:
    """How many epochs of training were validated, and what the best of them gained over none there."""
    monitor, none = run.config["early_stopping"]["monitor"], {"epochs_tried": 0, "gain_on_validation": None}
    columns = [f"{monitor}_w{width}" for width in run.config["widths"]]
    if not {"phase", "epoch", *columns} <= set(run.history.columns):
        return none
    searched = run.history.filter(pl.col("phase") == "search", pl.col("epoch").is_not_null())
    values = searched.select("epoch", value=pl.mean_horizontal(columns)).drop_nulls().sort("epoch")
    start, later = values.filter(epoch=0)["value"], values.filter(pl.col("epoch") > 0)
    if not (len(start) and len(later) and start[0] > 0):
        return none
    return {"epochs_tried": later["epoch"].max(), "gain_on_validation": later["value"].max() / start[0] - 1}


def write_stages(table: pl.DataFrame, path: Path) -> Path:
    """Write the table as CSV, beside the rows of other data sets that the file has; its path."""
    return write_beside(table, path, SCHEMA, "stages")


def summarise_stages(table: pl.DataFrame, metric: str = "recall") -> list[str | Figure]:
    """The part of a report about the stages: heading, picture and sentences; empty without a table."""
    if not len(table):
        return []
    table = table.filter(metric=metric)
    return ["## What does each stage of the recipe give?", draw_stages(table, size="page"), describe_stages(table)]


def describe_stages(table: pl.DataFrame) -> str:
    """What the stages give at the narrowest and the widest width, what of them loses, and what was not used.

    table: of `measure_stages`, of one metric.
    """
    used = table.drop_nulls("value")
    widths = used["width"].unique().sort().to_list()
    title = f"{metric_title(table['metric'][0], table['k'][0])} on test"
    sentences = [_describe_width(used.filter(width=widths[0]), title)]
    sentences += [_describe_width(used.filter(width=width), "it") for width in widths[1:][-1:]]
    sentences += [*_describe_losses(used), _describe_training(table)]
    stages = set(used["stage"])
    unused = [step for stage, step in STEPS.items() if stage not in stages and stage != TRAINED]
    if unused:
        sentences.append(_capital(f"{listed(unused)} {'were' if len(unused) > 1 else 'was'} not used."))
    if code := table["code"][0]:
        sentences.append(f"Measured with code {code}.")
    return " ".join(sentences)


def _describe_width(stages: pl.DataFrame, title: str) -> str:
    """From the first value to the last, and the stage that gives most; of one width."""
    first, last = stages.row(0, named=True), stages.row(-1, named=True)
    text = f"At width {first['width']} {title}"
    if len(stages) == 1:
        return f"{text} is {_format(first['value'])}."
    most = stages.drop_nulls("gain").sort("gain", descending=True, maintain_order=True)
    if not len(most) or round(most["gain"][0], 3) <= 0:
        gives = "no stage gains"
    else:
        gives = f"{STEPS[most['stage'][0]]} gives most ({_signed(most['gain'][0])})"
    return f"{text} goes from {_format(first['value'])} to {_format(last['value'])}: {gives}."


def _describe_losses(used: pl.DataFrame) -> Iterator[str]:
    """Where a stage is worse than the one before it: the worst width of each."""
    for stage, step in STEPS.items():
        gains = used.filter(stage=stage).drop_nulls("gain").sort("gain", maintain_order=True)
        if stage != TRAINED and len(gains) and round(gains["gain"][0], 3) < 0:
            worst = gains.row(0, named=True)
            others = "" if len(gains.filter(pl.col("gain").round(3) < 0)) == 1 else "up to "
            yield _capital(f"{step} loses {others}{_signed(-worst['gain'])[1:]}, at width {worst['width']}.")


def _describe_training(table: pl.DataFrame) -> str:
    """What the training gives on test; where it was not used, what it gave on validation."""
    facts = table.row(0, named=True)
    gains = table.filter(stage=TRAINED).drop_nulls("gain").sort("gain", maintain_order=True)
    if len(gains):
        low, high = gains.row(0, named=True), gains.row(-1, named=True)
        text = f"The training ({_epochs(facts['epochs'])}) gives {_signed(low['gain'])} at width {low['width']}"
        return f"{text}." if len(gains) == 1 else f"{text} and {_signed(high['gain'])} at width {high['width']}."
    if not facts["epochs_tried"]:
        return "No training was tried."
    gain = facts["gain_on_validation"]
    text = "The training was not used: on validation users did not gain clearly "
    return text + f"({_signed(gain)} at best, in {_epochs(facts['epochs_tried'])})."


def _epochs(number: int) -> str:
    return f"{number} epoch{'s' * (number > 1)}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _signed(share: float) -> str:
    """A change as words: `+1.2 %`."""
    return f"{100 * share:+.1f} %".replace("-", "−")


def _format(value: float) -> str:
    """A metric as tables have it: `.0992`."""
    return f"{value:.4f}".replace("0.", ".", 1)
