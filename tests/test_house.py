"""The house in order: what the README, the requirements and the notebooks say of the files is true of the files."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import tomllib
from dataclasses import fields, is_dataclass
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import nbformat
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from papermill import inspect_notebook

from mrl import TrainConfig

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "mrl"
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")
WINGS = sorted(path.parent for path in PACKAGE.glob("*/__init__.py"))
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
TESTS = sorted((ROOT / "tests").rglob("test_*.py"))
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
# The method itself and what it stands on; all else is a wing.
TOP = {
    "errors", "words", "widths", "config", "parameters", "recipes", "model", "loss", "sampler", "softmax", "trainer",
    "train", "sweep", "popularity", "distillation",
}  # fmt: skip
LARGEST_WING = 1900  # lines
# What pins older versions than the rest is tested with wants an environment of its own, and is in no list of pins.
APART = {"federated"}
EXTRAS = {name: needs for name, needs in PROJECT["optional-dependencies"].items() if name not in APART}

each_module = pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
each_wing = pytest.mark.parametrize("wing", WINGS, ids=lambda wing: wing.name)
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)


def file_tree(readme: str) -> dict[str, str]:
    """Path -> its line, from the first fenced block of the README that has a line for `mrl/`."""
    block = next(b for b in re.findall(r"^```\w*\n(.*?)^```", readme, re.M | re.S) if re.search(r"^\W*mrl/\s", b, re.M))
    tree: dict[str, str] = {}
    parents: list[tuple[int, str]] = []
    for line in block.splitlines():
        if not (entry := re.match(r"([\s│├└─]*)(\S+)\s*(.*)", line)):
            continue
        depth, name, words = len(entry[1]), entry[2], entry[3]
        parents = [parent for parent in parents if parent[0] < depth]
        path = "".join(parent for _, parent in parents) + name
        tree[path] = words
        if name.endswith("/"):
            parents.append((depth, name))
    return tree


def pins() -> dict[str, Requirement]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"==[\w.]+", str(pin.specifier)) for pin in found), "every pin is name==version"
    by_name = {canonicalize_name(pin.name): pin for pin in found}
    assert len(by_name) == len(found), "a package is pinned twice"
    return by_name


def dependencies() -> list[Requirement]:
    """What pyproject.toml asks for, every extra included but those apart."""
    return [Requirement(line) for lines in (PROJECT["dependencies"], *EXTRAS.values()) for line in lines]


def code(path: Path) -> list[str]:
    return [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def parameters_cells(path: Path) -> list[str]:
    cells = nbformat.read(path, as_version=4).cells
    return [cell.source for cell in cells if "parameters" in cell.metadata.get("tags", ())]


def test_file_tree_is_read_as_people_read_it():
    drawn = (
        "text\n```\nmrl/   the package\n├── a.py   one\n└── sub/   two\n    └── b.py   three\nMakefile   four\n```\n"
    )
    plain = (
        "```text\n./x\n```\n```\nmrl/   the package\n  a.py   one\n  sub/   two\n    b.py   three\nMakefile   four\n```"
    )
    expected = {
        "mrl/": "the package",
        "mrl/a.py": "one",
        "mrl/sub/": "two",
        "mrl/sub/b.py": "three",
        "Makefile": "four",
    }
    assert file_tree(drawn) == file_tree(plain) == expected


def test_readme_tree_has_a_line_for_every_wing_top_module_and_notebook():
    tree = file_tree((ROOT / "README.md").read_text())
    files = [path.relative_to(ROOT).as_posix() for path in (*PACKAGE.glob("[!_]*.py"), *NOTEBOOKS)]
    wings = [f"{wing.relative_to(ROOT).as_posix()}/" for wing in WINGS]
    assert [path for path in (*files, *wings) if not tree.get(path)] == [], "without a line in the README's file tree"
    assert [path for path in tree if not (ROOT / path).exists()] == [], "in the README's file tree, but not on disk"


def lines_of(folder: Path) -> int:
    return sum(len(path.read_text().splitlines()) for path in folder.rglob("*.py"))


def test_the_top_of_the_package_is_the_method():
    assert {path.stem for path in PACKAGE.glob("[!_]*.py")} == TOP


@each_wing
def test_the_face_of_a_wing_names_every_room_and_computes_nothing(wing):
    source = (wing / "__init__.py").read_text()
    body = ast.parse(source).body
    words = ast.get_docstring(ast.parse(source), clean=False) or ""
    opening = words.partition("\n\n")[0]
    assert 1 <= len(opening.splitlines()) <= 3, "say in up to three lines what the wing is for"
    rooms = {path.stem for path in wing.glob("[!_]*.py")}
    named = dict(re.findall(r"^ *(\w+)(?:\.py)?  +(\S.*)$", words, re.M))
    assert set(named) == rooms, "a line for each room"
    for node in body[1:]:
        inside = isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"mrl.{wing.name}.")
        future = isinstance(node, ast.ImportFrom) and node.module == "__future__"
        assert inside or future, f"line {node.lineno}: only hands on names"
    assert lines_of(wing) <= LARGEST_WING


def floors() -> list[list[str]]:
    """The rooms and wings of each floor, from the roof down, as import-linter holds them."""
    contract = next(each for each in PYPROJECT["tool"]["importlinter"]["contracts"] if each["id"] == "floors")
    return [[name.strip() for name in layer.split("|")] for layer in contract["layers"]]


def test_the_readme_draws_the_floors_as_they_are_held():
    blocks = re.findall(r"^```\w*\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)
    drawn = [[[name for name in line.split() if name != "·"] for line in block.splitlines()] for block in blocks]
    assert floors() in drawn
    assert {name for floor in floors() for name in floor} == TOP | {wing.name for wing in WINGS}


def test_notebooks_readme_has_a_row_for_every_notebook():
    rows = re.findall(r"^\| `(\w+\.ipynb)` \|", (ROOT / "notebooks" / "README.md").read_text(), re.M)
    assert sorted(rows) == [path.name for path in NOTEBOOKS]


def test_changelog_says_what_is_coming():
    assert "\n## Unreleased\n" in (ROOT / "CHANGELOG.md").read_text()


@each_module
def test_module_is_documented_tested_and_short(path):
    source = path.read_text()
    assert ast.get_docstring(ast.parse(source)), "no docstring"
    assert len(source.splitlines()) <= 350, "one noun a file: split it"
    room = path.relative_to(PACKAGE)
    beside = ROOT / "tests" / room.parent / f"test_{room.name}"
    dotted = ".".join(room.with_suffix("").parts)
    package = ".".join(("mrl", *room.parent.parts))
    imported = re.compile(rf"\bmrl\.{re.escape(dotted)}\b|from {re.escape(package)} import .*\b{path.stem}\b")
    assert beside.exists() or any(imported.search(test.read_text()) for test in TESTS), "no test"


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.relative_to(ROOT / "tests").as_posix())
def test_tests_stand_where_what_they_test_stands(path):
    place = path.relative_to(ROOT / "tests")
    room = PACKAGE / place.parent / f"{place.stem.removeprefix('test_')}.py"
    across = {"house", "notebooks", "unchanged", "readme"}  # what belongs to no room
    assert room.exists() or place.parts[0] == "robustness" or place.stem.removeprefix("test_") in across


@each_module
def test_module_neither_prints_nor_unpickles_nor_evaluates_nor_seeds(path):
    banned_modules = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
    banned_calls = {
        *("eval", "exec", "print", "breakpoint", "torch.load", "torch.save"),
        *("torch.manual_seed", "np.random.seed", "numpy.random.seed", "random.seed"),
    }
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            assert not banned_modules & {alias.name.partition(".")[0] for alias in node.names}, node.lineno
        elif isinstance(node, ast.ImportFrom):
            assert (node.module or "").partition(".")[0] not in banned_modules, node.lineno
        elif isinstance(node, ast.Call):
            assert ast.unparse(node.func) not in banned_calls, f"line {node.lineno}: {ast.unparse(node)}"
            assert not any(word.arg == "allow_pickle" for word in node.keywords), node.lineno


def test_no_path_of_somebodys_home_is_committed():
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        pytest.skip("not a git checkout")
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    home = re.compile(rb"(?<![\w.])/(?:home|Users|root)/[\w.]|[A-Z]:\\Users\\")
    files = [ROOT / name for name in listing.split("\0") if name]
    assert [path.name for path in files if path.is_file() and home.search(path.read_bytes())] == []


def test_every_dependency_is_pinned_within_its_range():
    pinned = pins()
    for wanted in dependencies():
        pin = pinned[canonicalize_name(wanted.name)]
        version = str(pin.specifier).removeprefix("==")
        assert wanted.specifier.contains(version, prereleases=True), f"{pin} is not {wanted}"
        assert wanted.specifier, f"{wanted} has no lower bound"


def test_whatever_comes_along_is_pinned_too():
    pinned, seen = pins(), set()
    ahead = dependencies()
    while ahead:
        wanted = ahead.pop()
        name = canonicalize_name(wanted.name)
        if (name, *sorted(wanted.extras)) in seen:
            continue
        seen.add((name, *sorted(wanted.extras)))
        try:
            further = [Requirement(line) for line in requires(name) or ()]
        except PackageNotFoundError:
            continue  # an extra that is not installed here
        assert name in pinned, f"{name} comes with {PROJECT['name']} but is not pinned"
        # What one system adds (CUDA, Windows consoles) is left to pip there.
        further = [need for need in further if not re.search(r"platform|os_name", str(need.marker))]
        for extra in ("", *wanted.extras):
            ahead += [need for need in further if not need.marker or need.marker.evaluate({"extra": extra})]


def test_conda_users_get_the_same():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    conda = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    pip = next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    python = next(Requirement(entry) for entry in conda if entry.startswith("python"))
    assert "pip" in conda
    assert PROJECT["requires-python"] in str(python.specifier).split(",")
    assert pip[0] == "-c constraints.txt"
    assert set(re.fullmatch(r"-e \.\[([\w,]+)\]", pip[1])[1].split(",")) == set(EXTRAS)
    assert len(pip) == 2, "dependencies belong into pyproject.toml"


@each_notebook
def test_notebook_is_committed_clean_and_thin(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    for cell in notebook.cells:
        assert "injected-parameters" not in cell.metadata.get("tags", ())
        if cell.cell_type == "code":
            assert not cell.outputs and cell.execution_count is None, f"clear the outputs of: {cell.source[:60]}"
    for source in code(path):
        if not source.startswith("%"):
            nodes = list(ast.walk(ast.parse(source)))
            definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
            assert not [node.name for node in nodes if isinstance(node, definitions)], "belongs into mrl/"
            assert "sys.path" not in source


@each_notebook
def test_notebook_has_one_parameters_cell_that_papermill_can_explain(path):
    (source,) = parameters_cells(path)
    lines = source.splitlines()
    names = []
    for statement in ast.parse(source).body:
        assert isinstance(statement, ast.AnnAssign), f"annotated literals only: {ast.unparse(statement)}"
        ast.literal_eval(statement.value)
        names.append(statement.target.id)
        assert statement.lineno == statement.end_lineno and "  # " in lines[statement.lineno - 1], "one line, with help"
    explained = inspect_notebook(path)
    assert list(explained) == names
    assert [name for name in names if not explained[name]["help"]] == [], "papermill finds no help for them"


def test_notebooks_readme_tells_every_parameter_and_its_default():
    readme = (ROOT / "notebooks" / "README.md").read_text()
    explained = inspect_notebook(ROOT / "notebooks" / "train.ipynb")
    assert len(explained) <= 35
    rows = re.findall(r"^\| `(\w+)` \| `([^`]*)` \| ([^|]*) \|$", readme, re.M)
    assert rows == [(name, each["default"], each["help"]) for name, each in explained.items()]
    config = TrainConfig()
    assert {name: getattr(config, name) for name in explained}.keys() == config.to_dict().keys()
    sections = re.findall(r"^\| `(\w+)` \| `(\w+)` \| `([^`]*)` \| ", readme, re.M)
    expected = [
        (section, field.name)
        for section in explained
        if is_dataclass(getattr(config, section))
        for field in fields(getattr(config, section))
    ]
    assert sorted((section, name) for section, name, _ in sections) == sorted(expected)
    for section, name, default in sections:
        value = getattr(type(getattr(config, section))(), name)
        assert ast.literal_eval(default) == (list(value) if isinstance(value, tuple) else value), name


def make(*arguments: str) -> subprocess.CompletedProcess:
    if not shutil.which("make"):
        pytest.skip("no make")
    # The suite may itself run under make, whose settings are not meant for this one.
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(["make", *arguments], cwd=ROOT, env=clean, capture_output=True, text=True, timeout=60)


def test_make_help_lists_every_target():
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M)
    assert {"train", "test", "env", "lab", "clean", "help"} <= set(targets)
    assert re.findall(r"^  make ([a-z]+)  +[^ ]", make("help").stdout, re.M)[: len(targets)] == targets


def test_make_train_passes_every_setting_on():
    recipe = make("-n", "train", "DATASET=tool", "EPOCHS=50", "WIDTHS=[4, 8]", "NAME=it's", "PARAMS=-r a b").stdout
    assert "-p dataset 'tool' -p epochs '50' -p name 'it'\\''s' -p widths '[4, 8]' -r a b" in recipe
    assert "-p dataset 'ml-100k' 2>" in re.sub(" +", " ", make("-n", "train").stdout)


def test_make_looks_for_edits_in_every_notebook_that_it_is_to_run():
    executed = re.findall(r'execute\("(\w+)"', "\n".join(code(ROOT / "notebooks" / "report.ipynb")))
    for target, others in {"train": [], "report": executed, "bench": []}.items():
        recipe = make("-n", target).stdout
        names = ["benchmark" if target == "bench" else target, *others]
        assert f"python notebooks/copies.py edits {' '.join(names)}" in recipe
        assert recipe.index("copies.py edits") < recipe.index("papermill")


@pytest.mark.robustness
def test_make_without_a_python_says_so_in_one_line(tmp_path):
    run = make("env", "PYTHON=/nowhere/python3", f"VENV={tmp_path / 'venv'}")
    message = [line for line in run.stderr.splitlines() if not line.startswith("make: ***")]
    assert run.returncode != 0
    assert message == ["make: no Python 3.11 to 3.14 at /nowhere/python3; name one: make env PYTHON=/path/to/python3"]
