"""The README's examples, run as they stand: each fenced block, in its order, from the folder of the project.

MovieLens-100K is the real one where it is at hand, else a stand-in of as many users and items. The search of settings
is what takes minutes, and is not what is tested: every training is given its settings.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import nbformat
import numpy as np
import polars as pl
import pytest
import yaml
from exported import write_served
from settings import GIVEN

from mrl import export, train
from mrl.data import DATASETS
from mrl.recipes import RECIPES, USUAL
from mrl.runs.tables import accuracy_table

ROOT = Path(__file__).resolve().parents[1]
USERS, ITEMS, INTERACTIONS = 943, 1682, 100_000  # of MovieLens-100K
SETTINGS = USUAL | GIVEN | {"rotation": False, "fit_width": 64}


class Block(NamedTuple):
    language: str
    source: str


def blocks() -> list[Block]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", (ROOT / "README.md").read_text(), re.M | re.S)
    return [Block(language, source) for language, source in found]


def commands() -> list[str]:
    """Every line to type, of the shell blocks and of the prose."""
    prose = re.sub(r"^```.*?^```$", "", (ROOT / "README.md").read_text(), flags=re.M | re.S)
    lines = [line for block in blocks() if block.language == "sh" for line in block.source.splitlines()]
    lines += re.findall(r"`((?:make|papermill|conda|source) [^`]+)`", prose)
    return [line.partition(" #")[0].strip() for line in lines if line.strip()]


PAPERMILL = [command for command in commands() if command.startswith("papermill")]


def write_stand_in(folder: Path) -> None:
    """An atomic file with the users, items and interactions of MovieLens-100K by number, and titles."""
    folder.mkdir(parents=True)
    users = np.r_[np.repeat(np.arange(USERS), INTERACTIONS // USERS), np.arange(INTERACTIONS % USERS)]
    items = (np.arange(INTERACTIONS) * 13) % ITEMS  # nobody has one twice
    rows = [f"{user + 1}\t{item + 1}\t4\t{time}" for time, (user, item) in enumerate(zip(users, items, strict=True))]
    header = "user_id:token\titem_id:token\trating:float\ttimestamp:float"
    (folder / "ml-100k.inter").write_text("\n".join([header, *rows]) + "\n")
    titles = [f"{item}\tFilm {item}\t1990\tDrama" for item in range(1, ITEMS + 1)]
    header = "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq"
    (folder / "ml-100k.item").write_text("\n".join([header, *titles]) + "\n")


@pytest.fixture
def as_a_reader(tmp_path, monkeypatch) -> Iterator[Path]:
    """An empty working directory in which `ml-100k` is known."""
    folder = Path(os.environ.get("MRL_DATA") or ROOT.parent / "shared" / "data")
    if not (folder / "ml-100k" / "ml-100k.inter").is_file():
        folder = tmp_path / "data"
        write_stand_in(folder / "ml-100k")
    monkeypatch.setenv("MRL_DATA", str(folder))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.mark.robustness
def test_every_block_is_known() -> None:
    assert {block.language for block in blocks()} == {"sh", "python", "text", ""}
    for block in blocks():
        if not block.language:  # the house and its floors: test_house.py holds them against the disk
            assert block.source.startswith(("mrl/ ", "study\n"))
    assert {command.split()[0] for command in commands()} <= {"make", "papermill", "conda", "source", "python"}


@pytest.mark.robustness
@pytest.mark.timeout(600)
def test_python_blocks_run_as_they_stand(as_a_reader, monkeypatch, capsys) -> None:
    monkeypatch.setitem(RECIPES, "default", RECIPES["default"] | {"epochs": 1})
    monkeypatch.setattr(train, "choose_settings", lambda config, *_: (config.with_settings(**SETTINGS), None, None))
    namespace: dict = {}
    for block in blocks():
        if block.language == "python":
            exec(compile(block.source, "README.md", "exec"), namespace)
    assert namespace["users"].shape == (USERS, 8) and namespace["items"].shape == (ITEMS, 8)
    out, err = capsys.readouterr()
    assert "recall@20" in out and out.count("score") >= 2
    ((chosen, advice, header, *rows),) = [block.source.splitlines() for block in blocks() if block.language == "text"]
    table = repr(accuracy_table(namespace["run"])).splitlines()
    assert header == table[0] and [row.split()[0] for row in rows] == [row.split()[0] for row in table[1:]]
    assert "chosen: alpha0" in err and chosen.startswith("chosen: alpha0")
    assert "on validation, " in err and advice.startswith("on validation, ")
    assert (as_a_reader / "runs" / "ml-100k-default-0" / "metrics.csv").is_file()


def write_clicks(path: Path, columns: list[str]) -> None:
    rng = np.random.default_rng(0)
    users, items = np.repeat(np.arange(40), 9), np.concatenate([rng.permutation(30)[:9] for _ in range(40)])
    pl.DataFrame(
        {columns[0]: [f"c{user}" for user in users], columns[1]: [f"s{item}" for item in items]}
    ).write_parquet(path)


def write_split(folder: Path, interactions: int) -> None:
    """So many interactions of 1,500 users, the last 40 of each in test.txt."""
    folder.mkdir(parents=True)
    each, more = divmod(interactions, 1500)
    lists = [[(user * 7 + step) % 1600 for step in range(each + (user < more))] for user in range(1500)]
    for name, part in {"train": slice(None, -40), "test": slice(-40, None)}.items():
        lines = [" ".join(map(str, [user, *items[part]])) for user, items in enumerate(lists)]
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n")


@pytest.mark.robustness
@pytest.mark.timeout(600)
@pytest.mark.parametrize("command", PAPERMILL)
def test_papermill_lines_run_as_they_stand(command: str, tmp_path, request) -> None:
    """On data under the name that the line has, as many as the registry asks for, and with defaults that are quick.

    The first line starts a kernel as a reader does, the others fork one.
    """
    if command != PAPERMILL[0]:
        request.getfixturevalue("forked_kernels")
    program, *rest = shlex.split(command)
    options = [word for word in rest if word == "--log-output"]
    notebook, out, *parameters = [word for word in rest if word not in options]
    given = dict(zip(parameters[1::3], parameters[2::3], strict=True))
    assert set(parameters[::3]) <= {"-p", "-r"} and (ROOT / notebook).is_file()
    dataset = given.get("dataset", "ml-100k")
    if Path(dataset).suffix:
        write_clicks(tmp_path / dataset, [given.get("user_column", "user"), given.get("item_column", "item")])
    else:
        write_split(tmp_path / "data" / dataset, DATASETS[dataset].interactions or 10_000)
    (tmp_path / "notebooks").mkdir()
    book = nbformat.read(ROOT / notebook, as_version=4)
    for cell in book.cells:
        if "parameters" in cell.metadata.get("tags", ()):  # their defaults: what the line gives comes after them
            for name, value in {"recipe": "mrl4rec", "epochs": 1, "widths": [2, 4]}.items():
                cell.source = re.sub(rf"^({name}: \w+) = [^#]+#", rf"\1 = {value!r}  #", cell.source, flags=re.M)
    nbformat.write(book, tmp_path / notebook)
    environment = os.environ | {"MRL_DATA": str(tmp_path / "data"), "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, "-m", program, "--no-progress-bar", *options, notebook, out, *parameters],
        cwd=tmp_path, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-800:]
    assert ("done in" in done.stderr) == bool(options)  # the progress of the training
    (run,) = (tmp_path / "runs").iterdir()
    assert json.loads((run / "config.json").read_text())["dataset"].endswith(dataset)
    assert (run / "metrics.csv").is_file() and (tmp_path / out).is_file()


@pytest.mark.robustness
@pytest.mark.parametrize("command", [command for command in commands() if command.startswith("python")])
def test_python_lines_run_as_they_stand(command: str, tmp_path) -> None:
    write_clicks(tmp_path / "clicks.parquet", ["customer", "sku"])
    _, *arguments = shlex.split(command)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-800:]
    assert done.stdout == "clicks.parquet: Parquet, columns customer, sku; it starts with PAR1\n"


@pytest.mark.robustness
@pytest.mark.parametrize("command", [command for command in commands() if command.startswith("make")])
def test_make_lines_would_run_the_right_command(command: str) -> None:
    if not shutil.which("make"):
        pytest.skip("no make")
    _, target, *given = shlex.split(command)
    # The suite may itself run under make, whose settings are not meant for this one.
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    done = subprocess.run(
        ["make", "-n", target, *given], cwd=ROOT, env=clean, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    runs = {"test": "python -m pytest", "lab": "jupyter", "help": "make"} | {"bench": "notebooks/benchmark.ipynb"}
    runs["robustness"] = "pytest -m robustness"
    assert runs.get(target, f"notebooks/{target}.ipynb") in done.stdout
    for setting in given:
        name, _, value = setting.partition("=")
        assert f"-p {name.lower()} {shlex.quote(value)}" in done.stdout.replace(f"'{value}'", shlex.quote(value))


@pytest.mark.robustness
def test_the_http_service_of_the_notebooks_readme_runs_as_it_stands(tmp_path, monkeypatch) -> None:
    pytest.importorskip("fastapi")
    testclient = pytest.importorskip("fastapi.testclient")
    text = (ROOT / "notebooks" / "README.md").read_text()
    (source,) = re.findall(r"^```python\n(.*?)^```$", text.partition("## Serve over HTTP")[2], re.M | re.S)
    monkeypatch.chdir(tmp_path)
    run = write_served(tmp_path / "run")
    export(run, "exports/films", seen=True)
    namespace: dict = {"__name__": "service"}
    exec(compile(source, "service.py", "exec"), namespace)
    client = testclient.TestClient(namespace["app"])

    def asked(user: object, **settings: object):
        return client.get("/recommend", params={"user": user, **settings})

    users = run.user_ids.tolist() * 3
    for width in (4, 16, 64):
        with ThreadPoolExecutor(4) as threads:  # as a service is asked: by many at once
            answers = list(threads.map(lambda user, width=width: asked(user, k=5, width=width).json(), users))
        assert answers == [run.recommend(user, k=5, width=width).to_dicts() for user in users]
    assert asked(196).json() == run.recommend(196).to_dicts()
    for wrong, code, words in (
        ({"user": "nobody"}, 404, "is not in"),
        ({"user": 196, "width": 5}, 422, "width=5: must be one of [4, 16, 64]"),
        ({"user": 196, "k": 0}, 422, "k=0"),
    ):
        answer = asked(**wrong)
        assert answer.status_code == code and words in answer.json()["detail"]


@pytest.mark.robustness
def test_the_environments_of_the_readme_are_those_of_the_project() -> None:
    """Not made here: conda is not there, and an environment takes minutes and the web."""
    text = " ".join(command for command in commands() if command.startswith(("conda", "source")))
    for file, name in re.findall(r"conda env create -f (\S+) && conda activate (\S+)", text):
        assert yaml.safe_load((ROOT / file).read_text())["name"] == name
    for folder in re.findall(r"source (\S+)/bin/activate", text):
        assert f"VENV = {folder}\n" in (ROOT / "Makefile").read_text()
