"""Wrong parameters for every notebook there is, by papermill and by the very line that reads them; and Ctrl-C."""

from __future__ import annotations

import ast
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import get_args, get_type_hints

import nbformat
import pytest
import torch
from papermill import inspect_notebook
from settings import train_config
from training_server import PLANTED

from mrl import fit, load
from mrl.config import SECTION_OF, TrainConfig, in_sections
from mrl.errors import ConfigError, RunError
from mrl.parameters import as_config
from mrl.runs import RunDirectory

NOTEBOOKS = sorted((Path(__file__).resolve().parents[2] / "notebooks").glob("*.ipynb"))
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
# What is none of a type, as papermill may pass it: text, numbers, or what YAML makes of it.
WRONG = {
    "int": ("many", "2.5", 2.5, math.nan, "nan", True, "[1]", None, "1e400", {}),
    "float": ("much", math.nan, "nan", math.inf, "-inf", True, "true", "[0.1]", "1e-3x", {}),
    "bool": ("maybe", "yes", 2, 0.5, "[true]", {}),
    "list": ("some", 3, "3", {"a": 1}, '{"a": 1}', "[nan]", [math.nan], "[1, 2", [None], [[[]]]),
    "dict": ("some", 3, "[1]", [1], "{a", True, '{"a": nan}'),
    "str": (3, 2.5, True, [1], {"a": "b"}, math.nan),
}


def settings_of(path: Path) -> tuple[type, dict[str, object], dict[str, str]]:
    """What the notebook's `read_config` builds; its parameters' defaults; their types by name."""
    code = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    (first,) = [cell.source for cell in code if "parameters" in cell.metadata.get("tags", ())]
    assert code[0].source == first, "parameters come first"
    namespace: dict[str, object] = {}
    for statement in ast.parse(code[1].source).body:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            exec(compile(ast.Module([statement], []), str(path), "exec"), namespace)
        elif isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Call):
            if ast.unparse(statement.value.func) == "read_config":
                model_name, names = map(ast.unparse, statement.value.args)
                assert names == "globals()", "where unknown names are found"
                model = eval(model_name, namespace)
                break
            raise AssertionError(f"nothing may run before the parameters are checked: {ast.unparse(statement)}")
        else:
            assert not path.stem or "config" not in ast.unparse(statement)
    defaults = {line.target.id: ast.literal_eval(line.value) for line in ast.parse(first).body}
    types = {name: parameter["inferred_type_name"] for name, parameter in inspect_notebook(path).items()}
    return model, defaults, types


def accepted(model: type, name: str) -> set[type]:
    """The types that a parameter takes: raw ids may be numbers or text."""
    hint = get_type_hints(model)[name]
    return {hint, *get_args(hint)}


@each_notebook
def test_every_parameter_of_every_notebook_refuses_what_it_is_not(path, record_property):
    model, defaults, types = settings_of(path)
    tried = 0
    for name, kind in types.items():
        for wrong in WRONG[kind]:
            if type(wrong) in accepted(model, name) or (wrong is None and defaults[name] is None):
                continue
            try:
                value = getattr(as_config(model, defaults | {name: wrong}), name)
                assert value == (wrong,), f"{name}={wrong!r} is read as {value}"  # a single path is a list of one
            except ConfigError as error:
                message = str(error)
                assert f"{name}=" in message and len(message.splitlines()) == 1, (name, wrong, message)
            tried += 1
    record_property("bad inputs", tried)


def test_every_setting_of_every_section_refuses_what_it_is_not(record_property):
    wrongs = ("many", "2.5x", math.nan, "nan", math.inf, -1, True, {}, {"a": 1}, [[[]]], [None], [math.nan], "[1, 2")
    switches = {"rotation", "prototypes_views"}
    for name, section in SECTION_OF.items():
        for wrong in wrongs:
            if name in switches and wrong is True:
                continue
            with pytest.raises(ConfigError) as refused:
                as_config(TrainConfig, {section: {name: wrong}})
                pytest.fail(f"{section}: {name}={wrong!r} was taken")
            message = str(refused.value)
            assert f"{name}=" in message and len(message.splitlines()) == 1, (name, wrong, message)
    record_property("bad inputs", len(SECTION_OF) * len(wrongs) - len(switches))


@each_notebook
def test_every_parameter_of_every_notebook_reads_its_default_as_text(path):
    model, defaults, types = settings_of(path)

    def outcome(values: dict[str, object]) -> object:
        try:
            return as_config(model, values)
        except ConfigError as error:  # of a default that only stands for what the user must give
            return str(error)

    expected = outcome(defaults)
    for name, kind in types.items():
        if kind != "str" and defaults[name] is not None:
            for text in {json.dumps(defaults[name]), str(defaults[name]).replace("'", '"')}:
                assert outcome(defaults | {name: text}) == expected, (name, text)


@pytest.mark.timeout(300)
@each_notebook
def test_papermill_stops_every_notebook_at_a_wrong_value(path, tmp_path, full_run):
    if not full_run and path.stem != "train":
        pytest.skip("the short selection takes one notebook")
    _, _, types = settings_of(path)
    number = next(name for name, kind in types.items() if kind == "int")
    other_name = [name for name, kind in types.items() if kind in ("list", "float", "dict")][-1]
    command = [sys.executable, "-m", "papermill", "--no-progress-bar", "--log-level", "ERROR", str(path), "out.ipynb"]
    command += ["-p", number, "nan", "-y", f"{{{other_name}: some text}}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ConfigError: ") and f"{number}=" in last and f"{other_name}='some text': must be " in last
    assert [file.name for file in tmp_path.iterdir()] == ["out.ipynb"], "nothing else is written"
    cells = [cell for cell in nbformat.read(tmp_path / "out.ipynb", as_version=4).cells if cell.cell_type == "code"]
    ran = [cell for cell in cells if cell.execution_count and "papermill-error-cell-tag" not in cell.metadata.tags]
    assert len(ran) == 3, "parameters, injected parameters, and the cell that checks them"


@pytest.mark.timeout(400)
def test_ctrl_c_in_papermill_leaves_a_run_that_resumes(tmp_path, full_run):
    if not full_run:
        pytest.skip("the short selection interrupts a training without a notebook")
    settings = {
        "dataset": "planted", "planted": PLANTED, "widths": [2, 4, 8], "epochs": 60, "eval_every": 1, "patience": 60,
        "batch_size": 8, "device": "cpu", "run_dir": str(tmp_path / "run"),
    }  # fmt: skip
    path = next(path for path in NOTEBOOKS if path.stem == "train")
    command = [sys.executable, "-m", "papermill", "--no-progress-bar", str(path), str(tmp_path / "out.ipynb")]
    papermill = subprocess.Popen(
        [*command, "-y", json.dumps(in_sections(settings))],
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    )
    while not (tmp_path / "run" / "checkpoint.safetensors").exists():
        assert papermill.poll() is None, papermill.stderr.read()
        time.sleep(0.02)
    os.killpg(papermill.pid, signal.SIGINT)
    papermill.communicate(timeout=100)
    assert papermill.returncode != 0
    for _ in range(100):  # the kernel dies a moment after papermill
        try:
            RunDirectory(tmp_path / "run").close()
            break
        except RunError:
            time.sleep(0.3)
    with pytest.raises(RunError, match="was interrupted; train with the same settings to resume it"):
        load(tmp_path / "run")
    resumed = fit(train_config(**settings), progress=False)
    undisturbed = fit(train_config(**settings | {"run_dir": str(tmp_path / "undisturbed")}), progress=False)
    assert torch.equal(resumed.users, undisturbed.users) and resumed.metrics.equals(undisturbed.metrics)
