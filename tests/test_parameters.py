"""Parameters: unknown names and ill-typed values are refused in one line, also through a real papermill."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import nbformat
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, model_validator

from mrl.errors import ConfigError
from mrl.parameters import as_config, injected, read, read_config, settings
from mrl.widths import check_widths


@settings
class Rules:
    topk: Annotated[int, Field(ge=1)] = 4
    hardness: tuple[float, float] = (1.0, -2.0)
    similarity: Literal["inner", "cosine"] = "inner"


@settings
class Settings:
    dataset: str = "ml-100k"
    backbone: Literal["mf", "lightgcn"] = "mf"
    widths: tuple[int, ...] = (4, 8, 16)
    level_weights: tuple[float, ...] | None = None
    nested_negatives: bool = True
    epochs: Annotated[int, Field(ge=1)] = 300
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    run_dir: Path | None = None
    rules: Rules = Field(default_factory=Rules)

    @model_validator(mode="after")
    def _check(self) -> Settings:
        check_widths(self.widths)
        return self


NAMES = list(Settings.__dataclass_fields__)
DEFAULTS = "\n".join(f"{name} = {value!r}" for name, value in asdict(Settings()).items())


def session(*cells: str) -> dict:
    """What a notebook's globals() are after these cells."""
    namespace: dict = {"In": ["", *cells]}
    for cell in cells:
        exec(cell, namespace)
    return namespace


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("widths", "[4, 8]", (4, 8)),
        ("widths", [4, 8], (4, 8)),
        ("widths", (4, 8), (4, 8)),
        ("level_weights", "[1, 0.5]", (1.0, 0.5)),
        ("level_weights", "null", None),
        ("level_weights", None, None),
        ("nested_negatives", "false", False),
        ("nested_negatives", "False", False),
        ("nested_negatives", True, True),
        ("learning_rate", "1e-3", 0.001),
        ("learning_rate", ".5", 0.5),
        ("learning_rate", 1, 1.0),
        ("epochs", "50", 50),
        ("dataset", "[4, 8]", "[4, 8]"),
        ("dataset", "true", "true"),
        ("run_dir", "runs/a", Path("runs/a")),
        ("run_dir", Path("runs/a"), Path("runs/a")),
    ],
)
def test_text_becomes_the_right_type(name, value, expected):
    found = getattr(as_config(Settings, {name: value}), name)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.robustness
@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("learning_rate", float("nan"), "learning_rate=nan: must be a finite number"),
        ("learning_rate", "nan", "learning_rate='nan': must be a finite number"),
        ("learning_rate", "-inf", "learning_rate='-inf': must be a finite number"),
        ("learning_rate", "1e400", "learning_rate='1e400': must be a finite number"),
        ("learning_rate", "fast", "learning_rate='fast': must be a number"),
        ("learning_rate", True, "learning_rate=True: must be a number"),
        ("learning_rate", 0, "learning_rate=0: must be greater than 0"),
        ("level_weights", "[1, nan]", "level_weights='[1, nan]': must be a list such as [4, 8]"),
        ("level_weights", [1, float("inf")], "level_weights=[1, inf]: must be a finite number"),
        ("epochs", 2.5, "epochs=2.5: must be a whole number"),
        ("epochs", 50.0, "epochs=50.0: must be a whole number"),
        ("epochs", True, "epochs=True: must be a whole number"),
        ("epochs", 0, "epochs=0: must be greater than or equal to 1"),
        ("epochs", None, "epochs=None: must be a whole number"),
        ("nested_negatives", "maybe", "nested_negatives='maybe': must be true or false"),
        ("nested_negatives", 1, "nested_negatives=1: must be true or false"),
        ("widths", "[4, 8", "widths='[4, 8': must be a list such as [4, 8]"),
        ("widths", "4", "widths='4': must be a list such as [4, 8]"),
        ("widths", "[4, 8.5]", "widths='[4, 8.5]': must be a whole number"),
        ("widths", "[8, 4]", "widths=[8, 4]: must increase without repeats, for example [4, 8]"),
        ("backbone", "mlp", "backbone='mlp': must be 'mf' or 'lightgcn'"),
        ("dataset", 7, "dataset=7: must be text (papermill makes numbers of digits; -r instead of -p keeps them text)"),
        ("dataset", object, "must be text, a number, true, false, null or a list of them"),
        ("lrr", 0.1, "unknown parameter 'lrr'"),
    ],
)
def test_a_bad_value_is_one_line(name, value, message):
    with pytest.raises(ConfigError) as error:
        as_config(Settings, {name: value})
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_every_fault_is_named_first_fault_first():
    with pytest.raises(ConfigError) as error:
        as_config(Settings, {"epochs": "x", "widths": "y"})
    assert str(error.value) == "epochs='x': must be a whole number; widths='y': must be a list such as [4, 8]"


def test_a_class_of_settings_says_in_one_line_what_is_wrong():
    with pytest.raises(ConfigError) as error:
        Settings(backbone="mlp", level_weights="x", epochs=0)
    assert str(error.value) == (
        "backbone='mlp': must be 'mf' or 'lightgcn'; level_weights='x': must be a list such as [4, 8]; "
        "epochs=0: must be greater than or equal to 1"
    )


@pytest.mark.parametrize(
    "value",
    [
        {"topk": 2, "hardness": [1, -1]},
        {"topk": "2", "hardness": "[1, -1]"},
        '{"topk": 2, "hardness": [1.0, -1]}',
        Rules(topk=2, hardness=(1.0, -1.0)),
    ],
)
def test_a_section_is_a_dict_of_settings(value):
    found = as_config(Settings, {"rules": value}).rules
    assert found == Rules(topk=2, hardness=(1.0, -1.0)) and type(found.hardness[0]) is float


@pytest.mark.robustness
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rules": {"tpok": 2}}, "rules: unknown setting 'tpok'; did you mean 'topk'?"),
        ({"rules": {"speed": 2}}, "rules: unknown setting 'speed'; the settings are topk, hardness, similarity"),
        ({"rules": {"topk": 0}}, "rules.topk=0: must be greater than or equal to 1"),
        ({"rules": {"similarity": "l1"}}, "rules.similarity='l1': must be 'inner' or 'cosine'"),
        ({"topk": 2}, "unknown parameter 'topk'; did you mean rules={'topk': …}?"),
        ({"hardnes": 2}, "unknown parameter 'hardnes'; did you mean rules={'hardness': …}?"),
        ({"epoch": 2}, "unknown parameter 'epoch'; did you mean 'epochs'?"),
    ],
)
def test_a_fault_in_a_section_is_one_line_from_python_too(values, message):
    for make in (lambda: as_config(Settings, values), lambda: Settings(**values)):
        with pytest.raises(ConfigError) as error:
            make()
        assert str(error.value) == message


@pytest.mark.robustness
@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"topk": 2.5}, "rules.topk=2.5: must be a whole number"),
        ({"topk": "two"}, "rules.topk='two': must be a whole number"),
        ({"hardness": ["nan", 1]}, "rules.hardness=['nan', 1]: must be a number"),
        ([1], 'rules=[1]: must be a mapping such as {"name": 1}'),
        ("{topk: 2}", "rules='{topk: 2}': must be a mapping such as {\"name\": 1}"),
        (None, 'rules=None: must be a mapping such as {"name": 1}'),
    ],
)
def test_a_section_is_read_as_strictly_as_a_flat_setting(value, message):
    with pytest.raises(ConfigError) as error:
        as_config(Settings, {"rules": value})
    assert str(error.value) == message


@given(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.lists(st.integers() | st.floats()))
)
def test_any_value_is_a_setting_or_a_config_error(value):
    for name in NAMES:
        try:
            config = as_config(Settings, {name: value})
        except ConfigError as error:
            assert "\n" not in str(error)
        else:
            assert isinstance(config, Settings)


def test_read_gives_the_injected_values():
    namespace = session(DEFAULTS, "# Parameters\nepochs = 5\nwidths = '[4, 8]'\n", "import math")
    assert injected(namespace) == {"epochs": 5, "widths": "[4, 8]"}
    assert read_config(Settings, namespace) == Settings(epochs=5, widths=(4, 8))


def test_read_outside_a_notebook():
    assert read({"epochs": 3, "other": 4}, Settings) == {"epochs": 3}
    assert injected({}) == {}
    pair = {"In": ["", "# Parameters\nepochs, seed = 5, 6\n"], "epochs": 5, "seed": 6}
    assert injected(pair) == {"epochs": 5, "seed": 6}


@pytest.mark.robustness
@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("lrr = 0.1", "unknown parameter 'lrr'; did you mean 'learning_rate'?"),
        ("epoch = 5", "unknown parameter 'epoch'; did you mean 'epochs'?"),
        ("amp = 'false'", f"unknown parameter 'amp'; the parameters are {', '.join(NAMES)}"),
        ("epochs = 5\nwidth = 4", "unknown parameter 'width'; did you mean 'widths'?"),
        ("widths[0] = 3", "unknown parameter 'widths[0]'; did you mean 'widths'?"),
    ],
)
def test_an_unknown_injected_name_is_refused(cell, message):
    namespace = {"In": ["", DEFAULTS, f"# Parameters\n{cell}\n"]}
    with pytest.raises(ConfigError) as error:
        read(namespace, Settings)
    assert str(error.value) == message


@pytest.mark.robustness
def test_a_name_misspelt_in_the_parameters_cell_is_refused():
    with pytest.raises(ConfigError, match="unknown parameter 'epoch'; did you mean 'epochs'"):
        read(session(DEFAULTS.replace("epochs", "epoch")), Settings)


def test_what_is_corrected_and_run_again_is_read():
    wrong, right = "# Parameters\nlrr = 0.1\n", "# Parameters\nlearning_rate = 0.1\n"
    assert read(session(DEFAULTS, wrong, right), Settings)["learning_rate"] == 0.1


def test_other_cells_are_nobodys_parameters():
    other = ("%matplotlib inline", "epochs = 4\nfound = 3", "PAPERMILL_INPUT_PATH = 'a'")
    namespace = {"In": ["", DEFAULTS, *other], "epochs": 4}
    assert read(namespace, Settings) == {"epochs": 4}
    namespace["In"].append("# Parameters\nPAPERMILL_INPUT_PATH = 'a'\n")
    assert read(namespace, Settings) == {"epochs": 4}


NOTEBOOK = """
from mrl.parameters import read_config, settings

@settings
class Section:
    topk: int = 4
    margin: float = 0.5

@settings
class Settings:
    epochs: int
    learning_rate: float
    widths: tuple[int, ...]
    sampler: Section
    nested_loss: Section

config = read_config(Settings, globals())
print(config)
"""


@pytest.fixture
def notebook(tmp_path, forked_kernels):
    parameters = nbformat.v4.new_code_cell(
        "epochs: int = 3  # how long\nlearning_rate: float = 0.1\nwidths: list = [4]\n"
        "sampler: dict = {}\nnested_loss: dict = {}"
    )
    parameters.metadata["tags"] = ["parameters"]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    cells = [parameters, nbformat.v4.new_code_cell(NOTEBOOK)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), tmp_path / "in.ipynb")
    return tmp_path / "in.ipynb"


def papermill(notebook: Path, *options: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "papermill", "--no-progress-bar", "--log-output", notebook, "out.ipynb", *options]
    return subprocess.run(command, cwd=notebook.parent, capture_output=True, text=True, timeout=100)


def test_papermill_passes_text_and_yaml(notebook):
    sections = ("-p", "sampler", '{"topk": 2}', "-y", "{learning_rate: 1e-3, nested_loss: {margin: 1e-3}}")
    run = papermill(notebook, "-p", "widths", "[4, 8]", *sections)
    assert run.returncode == 0, run.stderr
    assert "Settings(epochs=3, learning_rate=0.001, widths=(4, 8), sampler=Section(topk=2, margin=0.5), " in run.stderr
    assert "nested_loss=Section(topk=4, margin=0.001))" in run.stderr


@pytest.mark.robustness
def test_papermill_with_an_unknown_name_fails_and_says_so_last(notebook):
    run = papermill(notebook, "-p", "lrr", "0.1")
    assert run.returncode != 0
    assert run.stderr.strip().splitlines()[-1] == (
        "ConfigError: unknown parameter 'lrr'; did you mean 'learning_rate'?"
    )
