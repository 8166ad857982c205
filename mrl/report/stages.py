"""From a data set to one page: notebooks executed one after the other.

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
from papermill.exceptions import PapermillExecutionError
from pydantic import Field, NonNegativeInt, PositiveInt
from tqdm import tqdm

import mrl
from mrl.config import TrainConfig
from mrl.controls.runs import CONTROLS, ControlName
from mrl.data import dataset_name
from mrl.errors import ConfigError, RunError
from mrl.hierarchy import SAMPLE
from mrl.parameters import PathText, as_config, settings
from mrl.runs import Run

PROJECT = Path(mrl.__file__).parents[1]
MANY = 500_000  # interactions
VOLATILE_FILES = ("environment.json", "history.csv", "checkpoint.safetensors")  # of a run: they differ every time


@settings
class ReportConfig:
    """Parameters of `notebooks/report.ipynb`.

    dataset, seed, core: of the model that is reported. settings: further parameters of `train.ipynb`. controls: which,
    see `mrl.controls.runs`; empty for all, but `alone` where there are more than MANY interactions. epochs: of those
    that are trained, at most. processes: trainings at once, 0 for one a core. sample: items that are clustered.
    folder: of executed notebooks and tables; empty for runs/reports/<dataset>-<seed>. page: the file to write; empty
    for the project's reports/<dataset>.html.
    """

    dataset: PathText = "ml-100k"
    seed: NonNegativeInt = 0
    core: PositiveInt = 1
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
        return training_config(self.settings, dataset=self.dataset, seed=self.seed, core=self.core)

    def controls_for(self, run: Run) -> tuple[str, ...]:
        """The controls beside a run: of many interactions every width trained alone would take half of the time."""
        many = run.seen is not None and len(run.seen) > MANY
        return self.controls or tuple(name for name in CONTROLS if not (many and name == "alone"))

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
