"""From a data set to one page: notebooks executed one after the other, and what they found in a few sentences.

A stage (a notebook with its parameters) is not executed again unless what went into it has changed: its parameters, its
source, the files that it reads or wrote. What that was lies beside the executed notebook, as `<stage>.inputs.json`.
What `notebooks/report.ipynb` calls; `mrl.report.page` makes the page.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import nbformat
import papermill
import polars as pl
from matplotlib.figure import Figure
from papermill.exceptions import PapermillExecutionError
from pydantic import Field, NonNegativeInt, PositiveInt
from tqdm import tqdm

import mrl
from mrl.analysis.comparison import describe_comparison
from mrl.analysis.profile import describe_accuracy
from mrl.config import TrainConfig
from mrl.controls.runs import ControlName
from mrl.data.datasets import dataset_name
from mrl.errors import ConfigError, RunError
from mrl.figures import flows, plots
from mrl.figures import hierarchy as levels
from mrl.hierarchy import describe
from mrl.hierarchy.runs import beside, in_order_of
from mrl.parameters import as_config, settings
from mrl.runs.run import Run

ROOT = Path(mrl.__file__).parents[1]
CHANGING = ("environment.json", "history.csv", "checkpoint.safetensors")  # of a run: times, and what is not there long
EXPLAINED = {  # what a newcomer has to know of a model; others are named by their settings
    "mrl4rec": "the published method, trained from random numbers",
    "bpr-rotated": "a plain model of the full width, turned so that its first dimensions hold most: no nested training",
    "shared": "nested too, but with one negative for all widths",
    "ials": "least squares, turned in the same way",
    "alone": "for each width a model of its own",
    "ease": "a linear model from item to item, without vectors",
    "popularity": "the same list for everybody",
}
HEADLINE = (
    "mrl4rec",
    "bpr-rotated",
    "shared",
    "ials",
    "alone",
    "ease",
    "popularity",
)  # controls in the figures of the summary


@settings
class ReportConfig:
    """Parameters of `notebooks/report.ipynb`.

    dataset, seed: of the model that is reported. settings: further parameters of `train.ipynb`. controls: which, see
    `mrl.controls.runs`; empty for all. epochs: of those that are trained, at most. processes: trainings at once, 0 for
    one a core. sample: items that are clustered.
    folder: of executed notebooks and tables; empty for runs/reports/<dataset>-<seed>. page: the file to write; empty
    for the project's reports/<dataset>.html.
    """

    dataset: str = "ml-100k"
    seed: NonNegativeInt = 0
    epochs: PositiveInt = 300
    settings: dict[str, Any] = Field(default_factory=dict)
    controls: tuple[ControlName, ...] = ()
    processes: NonNegativeInt = 0
    sample: PositiveInt = 2000
    folder: str = ""
    page: str = ""

    @property
    def training(self) -> TrainConfig:
        """The settings of the model; ConfigError where they are impossible or given twice."""
        return training(self.settings, dataset=self.dataset, seed=self.seed)

    @property
    def stages(self) -> Path:
        name = f"{dataset_name(self.dataset)}-{self.seed}"
        return Path(self.folder) if self.folder else Path("runs") / "reports" / name

    @property
    def target(self) -> Path:
        return Path(self.page) if self.page else ROOT / "reports" / f"{dataset_name(self.dataset)}.html"


def training(settings: Mapping[str, Any], **own: Any) -> TrainConfig:
    """The settings of a nested model that reports and figures share: users' own figures are always written."""
    if twice := [name for name in settings if name in own]:
        raise ConfigError(f"settings={dict(settings)}: {twice[0]} does not belong there; give it by itself")
    return as_config(TrainConfig, own | {"per_user": True} | dict(settings))


def execute(
    notebook: str | Path,
    parameters: Mapping[str, Any],
    folder: Path,
    *,
    reads: Iterable[str | Path] = (),
    writes: Iterable[str | Path] = (),
    code: bool = True,
) -> Path:
    """Execute a notebook (a name, or a path) with papermill where something has changed; the executed one's path.

    folder: where it goes. reads, writes: files and folders whose contents count. code: whether the package's own source
    does. What the notebook prints is passed on. Raises RunError with the notebook's own error.
    """
    source = Path(notebook) if Path(notebook).suffix else ROOT / "notebooks" / f"{notebook}.ipynb"
    out, record = folder / source.name, folder / f"{source.stem}.inputs.json"
    inputs = {
        "parameters": json.loads(json.dumps(dict(parameters))),
        "notebook": _sha256("\0".join(cell.source for cell in nbformat.read(source, as_version=4).cells).encode()),
        "package": _package() if code else None,
        "reads": {str(path): fingerprint(path) for path in reads},
    }
    written = [str(path) for path in writes]
    reason = _reason(record, out, inputs, written)
    if not reason:
        tqdm.write(f"{source.stem}: nothing has changed, {out} is kept")
        return out
    tqdm.write(f"{source.stem}: executing ({reason})")
    folder.mkdir(parents=True, exist_ok=True)
    record.unlink(missing_ok=True)
    try:
        papermill.execute_notebook(
            str(source),
            str(out),
            inputs["parameters"],
            cwd=os.getcwd(),
            progress_bar=False,
            stdout_file=sys.stdout,
            stderr_file=sys.stderr,
        )
    except PapermillExecutionError as error:
        raise RunError(f"{source.stem}: {error.ename}: {error.evalue}; the notebook as far as it came: {out}") from None
    done = inputs | {"writes": {path: fingerprint(path) for path in written}}
    record.write_text(json.dumps(done, indent=2) + "\n", encoding="utf-8")
    return out


def _reason(record: Path, out: Path, inputs: dict, written: Sequence[str]) -> str:
    """Why a stage is to be executed; empty where it need not be."""
    if not (record.is_file() and out.is_file()):
        return "for the first time"
    try:
        before = json.loads(record.read_text(encoding="utf-8"))
    except ValueError:
        return f"{record.name} cannot be read"
    names = {"parameters": "other parameters", "notebook": "the notebook has changed", "package": "mrl has changed"}
    for name, words in names.items():
        if before.get(name) != inputs[name]:
            return words
    now = inputs["reads"] | {path: fingerprint(path) for path in written}
    then = before.get("reads", {}) | before.get("writes", {})
    differing = [path for path in {**now, **then} if now.get(path) != then.get(path) or now.get(path) is None]
    return f"{differing[0]} has changed" if differing else ""


def fingerprint(path: str | Path) -> str | None:
    """SHA-256 over a file, or over the files of a folder but those that differ from run to run; None if it is gone."""
    path = Path(path)
    if path.is_file():
        return _sha256(path.read_bytes())
    if not path.is_dir():
        return None
    files = sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
    lines = [f"{file.name} {_sha256(file.read_bytes())}" for file in files if file.name not in CHANGING]
    return _sha256("\n".join(lines).encode())


def _package() -> str:
    return _sha256(b"\0".join(path.read_bytes() for path in sorted(Path(mrl.__file__).parent.rglob("*.py"))))


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def summary(run: Run, metrics: pl.DataFrame, tables: Path) -> list[str | Figure | pl.DataFrame]:
    """The headlines: what the widths are worth beside the controls, what the first dimensions know, what the last add.

    metrics: of the model and its controls, see `mrl.controls.runs.measured`. tables: the folder with `evaluate/` and
    `hierarchy/`, the CSV files of those notebooks.
    """
    model, facts = run.metrics["model"][0], run.environment
    recall = metrics.filter(metric="recall", k=20)
    accuracy = _read(tables / "evaluate" / "accuracy.csv").filter(metric="recall", k=20)
    told = f"{len(run.user_ids):,} users, {len(run.item_ids):,} items, {len(run.seen):,} training interactions. "
    told += f"Model: {model}, protocol {recall['protocol'][0]}, seed {run.config['seed']}, "
    told += f"{facts['wall_seconds'] / 60:.1f} minutes of training on {facts['device']}."
    found: list[str | Figure | pl.DataFrame] = [told, "## How good is each width?"]
    shown = in_order_of(recall, [model, *HEADLINE])
    found.append(plots.recall_by_width(shown, trained=run.config["widths"], size="page"))
    present, narrow = set(shown["model"]), run.config["widths"][0]
    others = "; ".join(f"*{name}*: {words}" for name, words in EXPLAINED.items() if name in present)
    found.append(
        "Recall@20 is the share of what a user went on to choose, and the model was not shown, that is among its 20 "
        f"recommendations; at width {narrow} only the first {narrow} numbers of every vector are used. "
        f"*{model}* is the nested model: one training for all widths. " + (f"Beside it, {others}." if others else "")
    )
    found.append(describe_accuracy(accuracy.filter(model=model)))
    found.append(beside(shown.filter(pl.col("width").is_in(list(run.config["widths"]))), "Recall@20"))
    compared = _read(tables / "evaluate" / "compared.csv")
    if len(compared):
        chosen = compared.filter(pl.col("metric") == "recall", pl.col("other").is_in(["bpr-rotated", "shared"]))
        found += [describe_comparison(part) for _, part in chosen.group_by("other", maintain_order=True)]

    numbers, names, moves = (_read(tables / "hierarchy" / f"{name}.csv") for name in ("numbers", "names", "flows"))
    first = {name: _filled(part.filter(model=model)) for (name,), part in numbers.group_by("table")}
    found.append("## What do the levels mean?")
    blocks = in_order_of(_filled(numbers.filter(table="blocks")), [model, *HEADLINE])
    found += [levels.block_probes(blocks), describe.describe_blocks(first["blocks"])]
    if "recovery" in first:
        recovery = in_order_of(_filled(numbers.filter(table="recovery")), [model, *HEADLINE])
        found += [levels.cluster_quality(recovery), describe.describe_recovery(first["recovery"])]
        for (depth,), part in recovery.filter(metric="ami").group_by("label", maintain_order=True):
            found.append(beside(part, f"AMI with {describe.readable(depth)}"))
    if len(moves):
        moves, names = moves.filter(model=model), names.filter(model=model)
        found.append(flows.alluvial(moves, names, clustering="growing"))
        found += [describe.describe_flows(moves, names), describe.describe_clusters(names)]
    if "nesting" in first:
        found.append(describe.describe_nesting(first["nesting"]))
    return [part for part in found if not isinstance(part, str) or part]


def _read(path: Path) -> pl.DataFrame:
    return pl.read_csv(path, infer_schema_length=None) if path.is_file() else pl.DataFrame()


def _filled(table: pl.DataFrame) -> pl.DataFrame:
    """Without the columns that only other tables of numbers.csv fill."""
    return table.select(column.name for column in table if column.null_count() < len(column))
