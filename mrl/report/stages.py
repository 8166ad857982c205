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
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
from mrl.analysis.sentences import rank_models
from mrl.config import TrainConfig
from mrl.controls.runs import ControlName
from mrl.data import dataset_name
from mrl.errors import ConfigError, RunError
from mrl.figures import draw_accuracy, draw_alluvial, draw_block_probes, draw_cluster_quality, select_models
from mrl.hierarchy import SAMPLE, describe
from mrl.parameters import PathText, as_config, settings
from mrl.runs import Run
from mrl.words import model_names, readable

PROJECT = Path(mrl.__file__).parents[1]
VOLATILE_FILES = ("environment.json", "history.csv", "checkpoint.safetensors")  # of a run: they differ every time
CONTROLS = {  # in the figures of the summary, and what a newcomer has to know of them
    "mrl4rec": "the published method, trained from random numbers",
    "bpr-rotated": "a plain model of the full width, its dimensions rotated so that the first hold most: not nested",
    "shared": "nested too, but with one negative for all widths",
    "ials": "least squares, rotated in the same way",
    "alone": "for each width a model of its own",
    "ease": "a linear model from item to item, without vectors",
    "popularity": "the same list for everybody",
}


@settings
class ReportConfig:
    """Parameters of `notebooks/report.ipynb`.

    dataset, seed: of the model that is reported. settings: further parameters of `train.ipynb`. controls: which, see
    `mrl.controls.runs`; empty for all. epochs: of those that are trained, at most. processes: trainings at once, 0 for
    one a core. sample: items that are clustered.
    folder: of executed notebooks and tables; empty for runs/reports/<dataset>-<seed>. page: the file to write; empty
    for the project's reports/<dataset>.html.
    """

    dataset: PathText = "ml-100k"
    seed: NonNegativeInt = 0
    epochs: PositiveInt = 300
    settings: dict[str, Any] = Field(default_factory=dict)
    controls: tuple[ControlName, ...] = ()
    processes: NonNegativeInt = 0
    sample: PositiveInt = SAMPLE
    folder: PathText = ""
    page: PathText = ""

    @property
    def training(self) -> TrainConfig:
        """The settings of the model; ConfigError where they are impossible or given twice."""
        return training_config(self.settings, dataset=self.dataset, seed=self.seed)

    @property
    def stages(self) -> Path:
        name = f"{dataset_name(self.dataset)}-{self.seed}"
        return Path(self.folder) if self.folder else Path("runs") / "reports" / name

    @property
    def target(self) -> Path:
        return Path(self.page) if self.page else PROJECT / "reports" / f"{dataset_name(self.dataset)}.html"


def training_config(settings: Mapping[str, Any], **fixed: Any) -> TrainConfig:
    """The settings of a nested model that reports and figures share: metrics by user are always written."""
    if twice := [name for name in settings if name in fixed]:
        raise ConfigError(f"settings={dict(settings)}: {twice[0]} does not belong there; give it by itself")
    return as_config(TrainConfig, fixed | {"per_user": True} | dict(settings))


def execute(
    notebook: str | Path,
    parameters: Mapping[str, Any],
    folder: Path,
    *,
    reads: Iterable[str | Path] = (),
    writes: Iterable[str | Path] = (),
    code: bool = True,
    outdated: bool = False,
) -> Path:
    """Execute a notebook (a name, or a path) with papermill where something has changed; the executed one's path.

    folder: where it goes. reads, writes: files and folders whose contents count. code: whether the package's own source
    does. outdated: whether what it wrote is known to be of other data. What the notebook prints is passed on. Raises
    RunError with the notebook's own error.
    """
    source = Path(notebook) if Path(notebook).suffix else PROJECT / "notebooks" / f"{notebook}.ipynb"
    out, record = folder / source.name, folder / f"{source.stem}.inputs.json"
    inputs = {
        "parameters": json.loads(json.dumps(dict(parameters))),
        "notebook": _sha256("\0".join(cell.source for cell in nbformat.read(source, as_version=4).cells).encode()),
        "package": _package_hash() if code else None,
        "reads": {str(path): fingerprint(path) for path in reads},
    }
    written = [str(path) for path in writes]
    reason = _reason_to_execute(record, out, inputs, written) or ("the data have changed" if outdated else "")
    if not reason:
        tqdm.write(f"{source.stem}: nothing has changed, {out} is kept")
        return out
    tqdm.write(f"{source.stem}: executing ({reason})")
    folder.mkdir(parents=True, exist_ok=True)
    record.unlink(missing_ok=True)
    options = {"cwd": os.getcwd(), "progress_bar": False, "stdout_file": sys.stdout, "stderr_file": sys.stderr}
    try:
        papermill.execute_notebook(str(source), str(out), inputs["parameters"], **options)
    except PapermillExecutionError as error:
        raise RunError(f"{source.stem}: {error.ename}: {error.evalue}; the notebook as far as it came: {out}") from None
    finished = inputs | {"writes": {path: fingerprint(path) for path in written}}
    record.write_text(json.dumps(finished, indent=2) + "\n", encoding="utf-8")
    return out


def _reason_to_execute(record: Path, out: Path, inputs: dict, written: Sequence[str]) -> str:
    """Why a stage is to be executed; empty where it need not be."""
    if not (record.is_file() and out.is_file()):
        return "for the first time"
    try:
        before = json.loads(record.read_text(encoding="utf-8"))
    except ValueError:
        return f"{record.name} cannot be read"
    reasons = {"parameters": "other parameters", "notebook": "the notebook has changed", "package": "mrl has changed"}
    for name, reason in reasons.items():
        if before.get(name) != inputs[name]:
            return reason
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
    lines = [f"{file.name} {_sha256(file.read_bytes())}" for file in files if file.name not in VOLATILE_FILES]
    return _sha256("\n".join(lines).encode())


def _package_hash() -> str:
    return _sha256(b"\0".join(path.read_bytes() for path in sorted(Path(mrl.__file__).parent.rglob("*.py"))))


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def summarise(run: Run, metrics: pl.DataFrame, tables: Path) -> list[str | Figure | pl.DataFrame]:
    """The headlines: what the widths are worth beside the controls, what the first dimensions know, what the last add.

    metrics: of the model and its controls, see `mrl.controls.metrics_on_test`. tables: the folder with `evaluate/` and
    `hierarchy/`, the CSV files of those notebooks.
    """
    parts = [*_summarise_accuracy(run, metrics, tables / "evaluate"), *_summarise_hierarchy(run, tables / "hierarchy")]
    return [part for part in parts if not isinstance(part, str) or part]


def _summarise_accuracy(run: Run, metrics: pl.DataFrame, tables: Path) -> Iterator[str | Figure]:
    model, widths = run.metrics["model"][0], run.config["widths"]
    recall = select_models(metrics.filter(metric="recall", k=20), [model, *CONTROLS])
    names = model_names(recall["model"].unique(maintain_order=True))
    text = f"{len(run.user_ids):,} users, {len(run.item_ids):,} items, {len(run.seen):,} training interactions. "
    text += f"Model: {names[model]}, protocol {recall['protocol'][0]}, seed {run.config['seed']}, "
    yield text + f"{run.environment['wall_seconds'] / 60:.1f} minutes of training on {run.environment['device']}."
    yield "## How good is each width?"
    yield draw_accuracy(recall, trained=widths, size="page")
    others = "; ".join(f"*{names[name]}*: {words}" for name, words in CONTROLS.items() if name in names)
    text = "Recall@20 is the share of what a user went on to choose, and the model was not shown, that is among its 20 "
    text += f"recommendations; at width {widths[0]} only the first {widths[0]} numbers of every vector are used. "
    text += f"*{names[model]}* is the nested model: one training for all widths. "
    yield text + (f"Beside it, {others}." if others else "")
    accuracy = _read(tables / "accuracy.csv").filter(metric="recall", k=20)
    yield describe_accuracy(accuracy.filter(model=model))
    yield rank_models(recall.filter(pl.col("width").is_in(list(widths))), "Recall@20")
    compared = _read(tables / "compared.csv")
    for other in ("bpr-rotated", "shared") if len(compared) else ():
        yield describe_comparison(compared.filter(metric="recall", other=other))


def _summarise_hierarchy(run: Run, tables: Path) -> Iterator[str | Figure]:
    model = run.metrics["model"][0]
    numbers, names, flows = (_read(tables / f"{name}.csv") for name in ("numbers", "names", "flows"))
    by_table = {
        name: _drop_empty_columns(select_models(part, [model, *CONTROLS]))
        for (name,), part in numbers.group_by("table", maintain_order=True)
    }
    yield "## What do the levels mean?"
    yield draw_block_probes(by_table["blocks"])
    yield describe.describe_blocks(by_table["blocks"].filter(model=model))
    if "recovery" in by_table:
        recovery = by_table["recovery"]
        yield draw_cluster_quality(recovery)
        yield describe.describe_recovery(recovery.filter(model=model))
        for (depth,), part in recovery.filter(metric="ami").group_by("label", maintain_order=True):
            yield rank_models(part, f"AMI with {readable(depth)}")
    if len(flows):
        flows, names = flows.filter(model=model), names.filter(model=model)
        yield draw_alluvial(flows, names, clustering="by_width")
        yield describe.describe_flows(flows, names)
        yield describe.describe_clusters(names)
    if "nesting" in by_table:
        yield describe.describe_nesting(by_table["nesting"].filter(model=model))


def _read(path: Path) -> pl.DataFrame:
    return pl.read_csv(path, infer_schema_length=None) if path.is_file() else pl.DataFrame()


def _drop_empty_columns(table: pl.DataFrame) -> pl.DataFrame:
    """Without the columns that only other tables of numbers.csv fill."""
    return table.select(column.name for column in table if column.null_count() < len(column))
