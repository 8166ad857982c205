"""Every notebook, executed by papermill on small data; and what wrong parameters get."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import papermill
import polars as pl
import pytest
from settings import GIVEN

pytestmark = pytest.mark.timeout(1200)  # a kernel that starts on a busy machine takes its time

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
QUICK = str(Path(__file__).parent / "quick")  # maps without UMAP
SMALL = {"num_users": 150, "num_items": 64, "interactions": 2500}


def execute(name: str, tmp_path: Path, **parameters) -> Path:
    """Run a notebook as a user would, from a folder of its own; return the executed notebook."""
    out = tmp_path / f"{name}.out.ipynb"
    papermill.execute_notebook(
        str(NOTEBOOKS / f"{name}.ipynb"), str(out), parameters, cwd=str(tmp_path), progress_bar=False
    )
    return out


def train_small(tmp_path: Path, **parameters) -> Path:
    settings = {
        "dataset": "planted",
        "planted": SMALL,
        "widths": [2, 4, 8],
        "epochs": 2,
        "least_squares": GIVEN,  # but the width of the fit, so that there is a search, if a short one
    }
    execute("train", tmp_path, **(settings | parameters))
    (run,) = (tmp_path / "runs").glob("planted-*")
    return run


def test_train_leaves_a_run_directory_under_the_folder_it_ran_in(tmp_path) -> None:
    run = train_small(tmp_path, widths="auto")
    assert run.name == "planted-default-0"
    assert (run / "metrics.csv").is_file()
    assert json.loads((run / "config.json").read_text())["widths"] in ([4], [4, 8])  # of a fit of 8


# controls, evaluate and hierarchy are executed by test_report.py, as stages of a report.


@pytest.mark.robustness
@pytest.mark.slow
def test_hierarchy_leaves_out_what_is_not_there_of_unlabelled_items_that_are_equally_popular(tmp_path) -> None:
    folder = tmp_path / "even"
    folder.mkdir()
    for part, shifts in {"train": range(5), "test": (5,)}.items():  # every item has as many users
        lines = [" ".join(map(str, [user, *sorted((user + 5 * shift) % 40 for shift in shifts)])) for user in range(40)]
        (folder / f"{part}.txt").write_text("\n".join(lines) + "\n")
    execute("train", tmp_path, dataset=str(folder), widths=[2, 4], epochs=1, least_squares=GIVEN)
    (run,) = (tmp_path / "runs").glob("even-*")
    execute("hierarchy", tmp_path, runs=[str(run)])
    numbers = pl.read_csv(run / "hierarchy" / "numbers.csv")
    assert set(numbers["metric"]) >= {"effective_rank", "overlap", "share"} and "r2" not in set(numbers["metric"])


def test_figures_draws_every_figure_at_both_widths_and_writes_tables(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PYTHONPATH", QUICK, prepend=os.pathsep)
    settings = {"planted": SMALL, "widths": [2, 4, 8], "least_squares": GIVEN}
    execute("figures", tmp_path, dataset="planted", seeds=[0], epochs=1, settings=settings, processes=1, folder="drawn")
    names = {path.name for path in (tmp_path / "drawn").iterdir()}
    figures = {name.removesuffix(".pdf") for name in names if name.endswith(".pdf")}
    assert len(figures) >= 10 and {f"{figure}.png" for figure in figures} <= names
    assert {figure for figure in figures if f"{figure}-column" in figures} >= {"planted-learning", "planted-overlap"}
    assert any(name.endswith(".csv") for name in names) and any(name.endswith(".tex") for name in names)


def test_reproduce_writes_a_table_beside_the_anchors(tmp_path, real_data, monkeypatch) -> None:
    monkeypatch.setenv("MRL_DATA", str(real_data))
    report = tmp_path / "table.csv"
    execute(
        "reproduce", tmp_path, mns_datasets=["ml100k"], shared_datasets=[], graph_datasets=[],
        alone_datasets=["ml100k"], seeds=[0], alone_seeds=[0], widths=[4, 8], epochs=1, processes=1, report=str(report),
    )  # fmt: skip
    rows = report.read_text().splitlines()
    assert rows[0].startswith("dataset,model,width,metric,k,protocol,seeds,mean,low,high")
    assert len(rows) == 1 + 2 * 2 * 2  # the method and models alone, two widths, two metrics


def test_study_searches_fits_compares_and_writes_three_files(tmp_path) -> None:
    pytest.importorskip("optuna")
    execute(
        "study", tmp_path, datasets=["planted"], planted=SMALL, widths=[2, 4], trials=2, seconds=20.0, seeds=[0, 1],
        epochs=2, eval_every=1, models=["mf-dns-mns", "ials-4", "ease"], main="mf-dns-mns", processes=1,
        timing=False, resamples=200, report="tables/study",
    )  # fmt: skip
    written = {path.suffix: path.read_text() for path in tmp_path.glob("tables/study.*")}
    assert set(written) == {".csv", ".tex", ".html"}
    assert len(written[".csv"].splitlines()) == 1 + 4 + 4 + 2
    assert "MRL4Rec (MNS) is" in written[".html"]
    assert len(list(tmp_path.glob("runs/study/planted/*/search.json"))) == 3


def test_a_dry_run_of_the_study_makes_nothing(tmp_path) -> None:
    execute("study", tmp_path, datasets=["planted"], planted=SMALL, widths=[2, 4], dry_run=True, report="tables/study")
    assert not (tmp_path / "tables").exists() and not (tmp_path / "runs/study").exists()


def test_benchmark_writes_a_table_claims_and_a_figure(tmp_path) -> None:
    execute(
        "benchmark", tmp_path, dataset="planted", planted=SMALL, backbones=["mf"], rules=["dns"], widths=[2, 8],
        candidates=4, batch_size=256, threads=[1], gpu=False, repeats=1, slice_batches=2, slice_users=5, sizes=[2000],
        num_users=50, num_items=128, fit_datasets=[], report="table.csv", figure="drawn",
    )  # fmt: skip
    assert {path.name for path in tmp_path.iterdir()} >= {"table.csv", "table-claims.csv", "drawn.pdf", "drawn.png"}
    rows = (tmp_path / "table.csv").read_text().splitlines()
    assert rows[0].startswith("stage,dataset,interactions,users,items,model,rule,code,device,threads,repeats,seconds")
    assert len(rows) == 1 + 5 + 5 + 2  # trained, evaluated, grown


@pytest.mark.robustness
@pytest.mark.parametrize("notebook", sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb")))
def test_an_unknown_parameter_stops_a_notebook_with_one_line(notebook: str, tmp_path) -> None:
    command = [sys.executable, "-m", "papermill", "--no-progress-bar", "--log-level", "ERROR"]
    notebook_path = str(NOTEBOOKS / f"{notebook}.ipynb")
    done = subprocess.run(
        [*command, notebook_path, str(tmp_path / "out.ipynb"), "-p", "sede", "0.1"],
        cwd=tmp_path, capture_output=True, text=True, env=os.environ | {"PYTHONWARNINGS": "ignore"},
    )  # fmt: skip
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ConfigError: unknown parameter 'sede'"), done.stderr[-500:]
