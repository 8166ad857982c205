"""Stages of a report: executed once, and again when something that went into them has changed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from matplotlib.figure import Figure
from nbformat.v4 import new_code_cell, new_notebook
from settings import GIVEN

import mrl
from mrl.controls import CONTROLS
from mrl.errors import ConfigError, RunError
from mrl.parameters import as_config
from mrl.report.headlines import summarise
from mrl.report.stages import MANY, ReportConfig, _reason_to_execute, execute, fingerprint

pytestmark = pytest.mark.usefixtures("forked_kernels")
COUNT = """
from pathlib import Path
log = Path(folder) / "log.txt"
log.write_text(log.read_text() + "." if log.exists() else ".")
(Path(folder) / "out").mkdir(exist_ok=True)
(Path(folder) / "out" / "result.csv").write_text("1")
1 / divisor
"""


def notebook(path: Path, body: str = COUNT) -> Path:
    settings = new_code_cell('folder: str = ""  # where\ndivisor: int = 1  # by', metadata={"tags": ["parameters"]})
    written = new_notebook(cells=[settings, new_code_cell(body)])
    written.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(written, path)
    return path


@pytest.mark.timeout(300)
def test_a_stage_is_executed_again_only_where_something_has_changed(tmp_path, capsys):
    stage, data = notebook(tmp_path / "stage.ipynb"), tmp_path / "data.csv"
    data.write_text("a")
    given = {"folder": str(tmp_path)}
    links = {"reads": [data], "writes": [tmp_path / "out"], "code": False}

    def times() -> int:
        return len((tmp_path / "log.txt").read_text())

    out = execute(stage, given, tmp_path / "done", **links)
    assert execute(stage, given, tmp_path / "done", **links) == out == tmp_path / "done" / "stage.ipynb"
    assert times() == 1 and "nothing has changed" in capsys.readouterr().out
    execute(stage, given | {"divisor": 2}, tmp_path / "done", **links)
    assert times() == 2 and "other parameters" in capsys.readouterr().out
    given["divisor"] = 2
    data.write_text("b")
    execute(stage, given, tmp_path / "done", **links)
    assert times() == 3 and "data.csv has changed" in capsys.readouterr().out
    (tmp_path / "out" / "result.csv").unlink()
    execute(stage, given, tmp_path / "done", **links)
    assert times() == 4
    notebook(stage, COUNT + "2")
    execute(stage, given, tmp_path / "done", **links)
    assert times() == 5 and "the notebook has changed" in capsys.readouterr().out
    execute(stage, given, tmp_path / "done", **links, outdated=True)
    assert times() == 6 and "the data have changed" in capsys.readouterr().out


@pytest.mark.robustness
def test_a_stage_that_fails_says_why_in_one_line_and_is_executed_again(tmp_path):
    stage = notebook(tmp_path / "stage.ipynb")
    with pytest.raises(RunError, match=r"^stage: ZeroDivisionError: .*; the notebook as far as it came: .*ipynb$"):
        execute(stage, {"folder": str(tmp_path), "divisor": 0}, tmp_path / "done")
    assert not (tmp_path / "done" / "stage.inputs.json").exists()


def test_a_changed_package_counts_where_it_is_asked_for(tmp_path, monkeypatch):
    record, out = tmp_path / "a.json", tmp_path / "a.ipynb"
    inputs = {"parameters": {}, "notebook": "n", "package": "old", "reads": {}}
    record.write_text(json.dumps(inputs | {"writes": {}}))
    out.write_text("")
    assert _reason_to_execute(record, out, inputs, []) == ""
    assert _reason_to_execute(record, out, inputs | {"package": "new"}, []) == "mrl has changed"
    record.write_text("{")
    assert _reason_to_execute(record, out, inputs, []) == "a.json cannot be read"


def test_fingerprints_are_of_contents_and_leave_out_times(tmp_path):
    for name in ("config.json", "environment.json", ".lock"):
        (tmp_path / name).write_text("1")
    before = fingerprint(tmp_path)
    (tmp_path / "environment.json").write_text("2")
    (tmp_path / ".lock").write_text("2")
    assert fingerprint(tmp_path) == before
    (tmp_path / "config.json").write_text("2")
    assert fingerprint(tmp_path) != before
    assert fingerprint(tmp_path / "nowhere") is None


def test_settings_of_the_training_are_checked_at_once():
    config = as_config(ReportConfig, {"dataset": "planted", "settings": {"widths": [2, 4]}})
    assert config.training.widths == (2, 4) and config.training.per_user
    assert config.stages == Path("runs/reports/planted-0") and config.target.name == "planted.html"
    with pytest.raises(ConfigError, match=r"settings=.*: seed does not belong there; give it by itself"):
        as_config(ReportConfig, {"settings": {"seed": 1}}).training  # noqa: B018
    assert as_config(ReportConfig, {"core": 10}).training.core == 10
    with pytest.raises(ConfigError, match="unknown parameter 'widht'"):
        as_config(ReportConfig, {"settings": {"widht": 1}}).training  # noqa: B018


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_report_notebook_makes_a_page_with_sentences_and_figures(tmp_path, monkeypatch):
    import papermill

    quick = Path(__file__).parents[1] / "quick"  # maps without UMAP
    monkeypatch.setenv("PYTHONPATH", str(quick), prepend=os.pathsep)
    monkeypatch.chdir(tmp_path)
    small = {"num_users": 150, "num_items": 64, "interactions": 2500}
    source = Path(mrl.__file__).parents[1] / "notebooks" / "report.ipynb"
    given = {
        "dataset": "planted", "epochs": 2,
        "settings": {"planted": small, "widths": [2, 4, 8], "least_squares": GIVEN},
        "controls": [], "processes": 1, "page": "page.html",  # every control: figures must hold as many
    }  # fmt: skip
    papermill.execute_notebook(str(source), "out.ipynb", given, cwd=str(tmp_path), progress_bar=False)
    text = (tmp_path / "page.html").read_text()
    assert "How good is each width?" in text and "True depth 1" in text and text.count("<img ") > 10
    assert "SelectionRangeSlider" not in text  # nobody is there to move it: the static maps
    from mrl.controls.runs import ControlsConfig, metrics_on_test, run_controls

    runs = run_controls(
        ControlsConfig(run="runs/planted-default-0", controls=("bpr",), trained={"epochs": 2}), progress=False
    )
    parts = summarise(runs[0], metrics_on_test(runs), tmp_path / "runs" / "reports" / "planted-0")
    text = " ".join(part for part in parts if isinstance(part, str))
    assert "at width 2 only the first 2 numbers" in text and "sees only the first 2 dimensions" in text
    assert "*popularity*" not in text and "*BPR at each width alone*" not in text  # they are not among these runs
    assert "## What does each stage of the recipe give?" in parts and "At width 2 Recall@20 on test goes" in text
    assert "## Which width should I take?" in parts and "**Take width" in text
    assert any(isinstance(part, Figure) for part in parts)


def test_of_many_interactions_no_width_is_trained_alone():
    config = ReportConfig()
    few, many, unknown = (SimpleNamespace(seen=seen) for seen in (range(10), range(MANY + 1), None))
    assert set(config.controls_for(few)) == set(config.controls_for(unknown)) == set(CONTROLS)
    assert set(CONTROLS) - set(config.controls_for(many)) == {"alone"}
    assert ReportConfig(controls=["alone"]).controls_for(many) == ("alone",)
