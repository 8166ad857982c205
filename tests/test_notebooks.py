"""Every notebook, executed by papermill on small data; and what wrong parameters get."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import papermill
import polars as pl
import pytest
from settings import GIVEN, train_config

from mrl import fit
from mrl.serving import open_index

pytestmark = [
    pytest.mark.timeout(1200),  # a kernel that starts on a busy machine takes its time
    pytest.mark.usefixtures("forked_kernels"),
]

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


def test_train_in_two_processes_shows_their_progress(tmp_path) -> None:
    settings = {"recipe": "least_squares", "least_squares": GIVEN | {"fit_width": 8}, "epochs": None, "processes": 2}
    run = train_small(tmp_path, **settings)
    assert json.loads((run / "environment.json").read_text())["processes"] == 2
    assert "refit" in (tmp_path / "train.out.ipynb").read_text()


# controls, evaluate and hierarchy are executed by test_report.py, as stages of a report.


@pytest.mark.robustness
@pytest.mark.slow
def test_hierarchy_leaves_out_what_is_not_there_of_unlabelled_items_that_are_equally_popular(
    tmp_path, monkeypatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", QUICK, prepend=os.pathsep)
    folder = tmp_path / "even"
    folder.mkdir()
    for part, shifts in {"train": range(5), "test": (5,)}.items():  # every item has as many users
        lines = [" ".join(map(str, [user, *sorted((user + 5 * shift) % 40 for shift in shifts)])) for user in range(40)]
        (folder / f"{part}.txt").write_text("\n".join(lines) + "\n")
    settings = train_config(dataset=str(folder), widths=(2, 4), epochs=1, **GIVEN, run_dir=str(tmp_path / "run"))
    run = fit(settings, progress=False)
    execute("hierarchy", tmp_path, runs=[str(run.path)])
    numbers = pl.read_csv(run.path / "hierarchy" / "numbers.csv")
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


def test_ablation_draws_the_stages_of_a_run_and_writes_a_table(tmp_path) -> None:
    settings = {"planted": SMALL, "widths": [2, 4, 8], "least_squares": GIVEN, "epochs": 2}
    execute("ablation", tmp_path, dataset="planted", settings=settings, folder="drawn", table="stages.csv")
    drawn = {path.name for path in (tmp_path / "drawn").iterdir()}
    assert drawn == {f"planted-stages{size}.{kind}" for size in ("", "-column") for kind in ("pdf", "png")}
    assert len(pl.read_csv(tmp_path / "stages.csv")) == 5 * 3 * 2  # stages, widths, metrics


def test_levels_trains_what_is_missing_and_writes_a_table_and_figures(tmp_path) -> None:
    settings = {"planted": SMALL | {"branching": [2, 2]}, "widths": [2, 4, 8], "least_squares": GIVEN, "epochs": 1}
    parameters = {"datasets": ["planted"], "seeds": [0, 1], "models": ["svd", "ials"], "processes": 1}
    parameters |= {"settings": {"planted": settings}, "folder": "drawn", "table": "levels.csv"}
    controls = {"planted": {"ials_settings": {"alpha0": 0.1, "l2": 0.01}}}
    term = {"weights": [0, 1], "settings": {"epochs": 1}}
    recorded = {"prototypes": {"views": False, "clusterings": [0], "trainings": [term]}}
    (tmp_path / "recorded.json").write_text(json.dumps({"planted": recorded}))
    execute("levels", tmp_path, **parameters, controls=controls, recorded="recorded.json", prototypes=True)
    table = pl.read_csv(tmp_path / "prototypes.csv")
    assert set(table["part"]) == {"comparison", "training"} and set(table["seed"]) == {0, 1}
    assert {"kmeans", "balanced_kmeans", "prototypes", "default, untrained", "default, λ=1"} <= set(table["method"])
    assert set(table.filter(part="training")["label"]) == {"valid", "test"}
    table = pl.read_csv(tmp_path / "levels.csv")
    assert {"svd", "ials"} < set(table["model"]) and set(table["seeds"]) == {2} and set(table["width"]) == {2, 4, 8}
    assert {"depth_1", "depth_2", "activity", "home_1"} <= set(table["label"])
    drawn = {path.name for path in (tmp_path / "drawn").iterdir()}
    assert drawn == {f"levels{size}.{kind}" for size in ("", "-column") for kind in ("pdf", "png")}


def test_serve_measures_advises_and_publishes_an_index(tmp_path) -> None:
    settings = {"dataset": "planted", "planted": SMALL, "widths": (2, 4, 8), "epochs": 2, **GIVEN}
    run = fit(train_config(**settings, run_dir=str(tmp_path / "run")), progress=False).path
    execute("serve", tmp_path, run=str(run), recall=0.5, k=10, table="serving.csv", figure="drawn")
    table = pl.read_csv(tmp_path / "serving.csv")
    assert set(table["dataset"]) == {"planted"} and len(table) >= 5 and table["ndcg"].is_not_null().all()
    drawn = {f"drawn{size}.{kind}" for size in ("", "-column") for kind in ("pdf", "png")}
    assert {path.name for path in tmp_path.iterdir()} >= drawn
    assert open_index(run / "index").count == 64
    shutil.rmtree(run / "index")
    execute("serve", tmp_path, run=str(run), recall=0.5, k=10, enlarge=900, table="serving.csv")
    assert set(pl.read_csv(tmp_path / "serving.csv")["dataset"]) == {"planted", "planted, 900 items like its own"}
    assert not (run / "index").exists()  # of items that are made up


def test_privacy_attacks_and_measures(tmp_path) -> None:
    pytest.importorskip("dp_accounting", reason="dp-accounting is not installed (extra federated)")
    execute(
        "privacy", tmp_path, dataset="planted", data={"planted": SMALL}, widths=[2, 4], summed=[1, 2, 40], trials=5,
        attacked_width=4, epsilons=[2.0], seeds=2, folder="drawn", table="privacy.csv",
    )  # fmt: skip
    table = pl.read_csv(tmp_path / "privacy.csv")
    assert len(table) == 8 and table["epsilon"].unique().sort().to_list() == [2.0, float("inf")]
    names = {f"planted-privacy-{name}.{kind}" for name in ("attack", "epsilon") for kind in ("pdf", "png")}
    assert {path.name for path in (tmp_path / "drawn").iterdir()} == names


def test_federated_trains_compares_and_draws(tmp_path) -> None:
    execute(
        "federated", tmp_path, dataset="planted", data={"planted": SMALL}, widths=[2, 4, 8], rounds=5, start_rounds=2,
        block=2,
        fraction=0.8, stragglers=0.1, beside=["narrow", "alone", "central"], table="compared.csv",
    )  # fmt: skip
    runs = {path.name for path in (tmp_path / "runs").iterdir()}
    assert runs == {f"planted-federated-{name}-0" for name in ("closed-form", "closed-form-narrow", "alone", "central")}
    table = pl.read_csv(tmp_path / "compared.csv")
    assert set(table["model"]) == {"closed form", "closed form, narrow", "each client alone", "central"}
    assert {path.suffix for path in (tmp_path / "runs/planted-federated-closed-form-0").glob("traffic.*")} == {
        ".pdf",
        ".png",
    }


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
        resamples=200, report="tables/study",
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


def test_scale_measures_predicts_and_draws(tmp_path) -> None:
    execute(
        "scale", tmp_path, sizes=[20_000], held_out=30_000, users=4000, items=600, processes=[2], widths=[4, 8],
        repeats=1, memory_sizes=[20_000], memory_held_out=30_000, report="tables/scale.csv", figure="drawn",
    )  # fmt: skip
    table = pl.read_csv(tmp_path / "tables/scale.csv")
    # seconds; memory, in evaluation where it is more; bytes sent
    assert 0 <= len(table) - (3 * 4 + 2 + 3 * 4) <= 2
    assert table.filter("held_out")["predicted"].is_not_null().all() and (table["measured"] > 0).all()
    on_paper = pl.read_csv(tmp_path / "tables/scale-machines.csv")
    assert on_paper.select("interactions", "machines").rows() == [(10**n, m) for n in (8, 9) for m in (8, 64)]
    assert {path.name for path in tmp_path.iterdir()} >= {"drawn.pdf", "drawn.png"}


@pytest.mark.robustness
@pytest.mark.parametrize("notebook", sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb")))
def test_an_unknown_parameter_stops_a_notebook_with_one_line(notebook: str, tmp_path, full_run) -> None:
    if not full_run:
        pytest.skip("the short selection stops one notebook, at a wrong value, and reads the lines of all")
    command = [sys.executable, "-m", "papermill", "--no-progress-bar", "--log-level", "ERROR"]
    notebook_path = str(NOTEBOOKS / f"{notebook}.ipynb")
    done = subprocess.run(
        [*command, notebook_path, str(tmp_path / "out.ipynb"), "-p", "sede", "0.1"],
        cwd=tmp_path, capture_output=True, text=True, env=os.environ | {"PYTHONWARNINGS": "ignore"},
    )  # fmt: skip
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ConfigError: unknown parameter 'sede'"), done.stderr[-500:]


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A folder with a blank in its name, of which `notebooks/` holds two notebooks and the script."""
    root = tmp_path / "a project"
    (root / "notebooks").mkdir(parents=True)
    for name in ("train.ipynb", "evaluate.ipynb", "copies.py"):
        shutil.copy(NOTEBOOKS / name, root / "notebooks" / name)
    return root


def commit(root: Path) -> None:
    if not shutil.which("git"):
        pytest.skip("no git")
    author = ["-c", "user.name=reader", "-c", "user.email=reader@example.org", "-c", "commit.gpgsign=false"]
    for arguments in (["init", "-q"], ["add", "."], [*author, "commit", "-qm", "first"]):
        subprocess.run(["git", *arguments], cwd=root, check=True)


def copies(root: Path, *arguments: str) -> tuple[str, str]:
    """What the script says on stdout and stderr, called as make does."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = [sys.executable, "notebooks/copies.py", *arguments]
    done = subprocess.run(command, cwd=root, env=clean, capture_output=True, text=True, check=True)
    return done.stdout, done.stderr


def change(path: Path, old: str, new: str, *, outputs: tuple = ()) -> None:
    """Replace text in a cell, and save as JupyterLab does: other metadata, other spacing."""
    book = nbformat.read(path, as_version=4)
    (cell,) = [cell for cell in book.cells if old in cell.source]
    cell.source = cell.source.replace(old, new)
    book.metadata["language_info"] = {"name": "python", "version": "3.12.1"}
    if cell.cell_type == "code":
        cell.outputs, cell.execution_count = list(outputs), 3
    path.write_text(json.dumps(book, indent=4))


def test_working_copies_are_made_once_and_never_over_what_a_reader_changed(checkout) -> None:
    lab, hint = checkout / "lab", "For a fresh copy, delete it and run make lab again.\n"
    assert copies(checkout, "copy", "lab") == (f"Working copies in lab/: copied evaluate, train. {hint}", "")
    assert (lab / "train.ipynb").read_bytes() == (checkout / "notebooks" / "train.ipynb").read_bytes()
    change(lab / "train.ipynb", "seed: int = 0", "seed: int = 5")
    change(lab / "evaluate.ipynb", "## 2. Measuring", "## 2. Measuring")  # saved, not changed
    mine = (lab / "train.ipynb").read_bytes()
    words = f"Working copies in lab/: 1 as in notebooks/; kept as you left them: train. {hint}"
    assert copies(checkout, "copy", "lab") == (words, "")
    for name in ("train", "evaluate"):  # newer originals
        change(checkout / "notebooks" / f"{name}.ipynb", "from mrl.parameters", "import torch\nfrom mrl.parameters")
    words = f"copied evaluate; kept as you left them: train (the original has changed since). {hint}"
    assert copies(checkout, "copy", "lab") == (f"Working copies in lab/: {words}", "")
    assert "import torch" in (lab / "evaluate.ipynb").read_text() and (lab / "train.ipynb").read_bytes() == mine
    (lab / "train.ipynb").unlink()
    assert "copied train;" in copies(checkout, "copy", "lab")[0]


def test_a_working_copy_with_outputs_or_without_a_record_is_kept(checkout) -> None:
    copies(checkout, "copy", "lab")
    output = nbformat.v4.new_output("stream", text="trained for an hour")
    change(checkout / "lab" / "train.ipynb", "run = fit", "run = fit", outputs=(output,))
    (checkout / "lab" / "evaluate.ipynb").write_text("half a file")
    (checkout / "lab" / ".copied.json").unlink()
    said, _ = copies(checkout, "copy", "lab")
    assert "kept as you left them: evaluate (the original has changed since), train (the original" in said
    assert (checkout / "lab" / "evaluate.ipynb").read_text() == "half a file"


def test_make_is_told_which_parameters_of_an_original_were_edited(checkout) -> None:
    commit(checkout)
    train = checkout / "notebooks" / "train.ipynb"
    assert copies(checkout, "edits", "train", "evaluate") == ("", "")
    change(train, "epochs: int = None", "epochs: int = None")
    change(train, "# Train nested embeddings", "# My notes")
    assert copies(checkout, "edits", "train", "evaluate") == ("", "")  # runs as before
    change(train, "epochs: int = None", "epochs = 5")
    change(train, "widths: list = [4, 8, 16, 32, 64]", "widths: list = [8]")
    change(train, 'device: str = "auto"', "#")
    start, end = "notebooks/train.ipynb is not as committed: ", "To undo: git restore notebooks/train.ipynb\n"
    change(train, "seed: int = 0  # of splits", "seed, device = 1, 'cpu'  # of splits")
    edits = "widths = [8] (committed: [4, 8, 16, 32, 64]), epochs = 5 (committed: None), seed = 1 (committed: 0), "
    edits += "device = 'cpu' (committed: 'auto')"
    assert copies(checkout, "edits", "evaluate", "train") == ("", f"{start}{edits}. {end}")
    subprocess.run(["git", "restore", "notebooks/train.ipynb"], cwd=checkout, check=True)
    assert copies(checkout, "edits", "train") == ("", "")
    change(train, "run = fit(config, data if", "run = fit(config, None if")
    assert copies(checkout, "edits", "train") == ("", f"{start}cells were changed. {end}")
    change(train, "seed: int = 0", "seed: int = ")  # no Python
    assert "dataset = nothing (committed: 'ml-100k')" in copies(checkout, "edits", "train")[1]


def test_without_a_commit_nothing_is_said_of_edits(checkout) -> None:
    change(checkout / "notebooks" / "train.ipynb", "seed: int = 0", "seed: int = 5")
    assert copies(checkout, "edits", "train") == ("", "")  # no git checkout
    commit(checkout)
    shutil.copy(checkout / "notebooks" / "train.ipynb", checkout / "notebooks" / "mine.ipynb")
    (checkout / "notebooks" / "train.ipynb").write_text("no notebook")
    assert copies(checkout, "edits", "mine", "train", "absent") == ("", "")
