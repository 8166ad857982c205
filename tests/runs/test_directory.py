"""A run directory and the data of the run in it: no finished run of other data is written over."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from settings import train_config

from mrl.config import TrainConfig
from mrl.data import build, hold_out
from mrl.errors import RunError
from mrl.runs import load
from mrl.sweep import finished
from mrl.train import fit


def write_clicks(path: str | Path, seed: int = 0) -> Path:
    """A table of 30 users with 8 of 24 items each, with ratings; another seed, other clicks."""
    rng = np.random.default_rng(seed)
    items = [rng.permutation(24)[:8] for _ in range(30)]
    table = pl.DataFrame({"user": np.repeat(np.arange(30), 8), "item": np.concatenate(items)})
    table = table.with_columns(rating=pl.Series(rng.integers(1, 6, len(table))))
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    table.write_parquet(path) if Path(path).suffix == ".parquet" else table.write_csv(path)
    return Path(path)


def small(dataset: str | Path, **changes) -> TrainConfig:
    base = {"recipe": "mrl4rec", "widths": (2, 4), "epochs": 1, "candidates": 4, "device": "cpu"}
    return train_config(dataset=str(dataset), **base | changes)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.robustness
@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("a/clicks.csv", "b/clicks.csv"),
        ("clicks.csv", "clicks.parquet"),
        ("clicks/all.csv", "a/clicks.csv"),  # the first by its folder
        ("x/a/train.csv", "y/a/train.csv"),
        ("a b.csv", "a+b.csv"),
    ],
)
def test_a_finished_run_of_another_file_is_refused_and_left_whole(first, second, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_clicks(first), write_clicks(second, seed=1)
    run = fit(small("clicks" if first.startswith("clicks/") else first), progress=False)
    before = contents(run.path)
    assert finished(small(second)) is None
    with pytest.raises(RunError) as caught:
        fit(small(second), progress=False)
    message = str(caught.value)
    assert message.startswith(
        f"{run.path}: holds a finished run of {run.config['dataset']}, not of {tmp_path / second}"
    )
    assert message.endswith("; give another run_dir or name, or remove it") and "\n" not in message
    assert contents(run.path) == before
    assert fit(small(second, name="second"), progress=False).path != run.path
    assert fit(small(second, run_dir="elsewhere"), progress=False).path == tmp_path / "elsewhere"
    shutil.rmtree(run.path)
    assert fit(small(second), progress=False).path == run.path


@pytest.mark.robustness
def test_another_planted_taxonomy_is_other_data(tmp_path) -> None:
    sizes = {"num_users": 40, "num_items": 32, "interactions": 500, "branching": [2, 2]}
    config = small("planted", planted=sizes, run_dir=str(tmp_path / "run"))
    run = fit(config, progress=False)
    for changes in ({"planted": sizes | {"noise": 0.3}}, {"seed": 1}):
        with pytest.raises(RunError, match=r"holds a finished run of planted .*seed 0, not of planted"):
            fit(replace(config, **changes), progress=False)
    assert fit(replace(config, epochs=2), progress=False).path == run.path


@pytest.mark.robustness
def test_data_at_hand_are_known_by_their_fingerprint(tmp_path) -> None:
    logs = [pl.read_csv(write_clicks(tmp_path / f"{seed}.csv", seed)) for seed in range(2)]
    first, second = (hold_out(build(log, name="clicks")) for log in logs)
    config = small("clicks", run_dir=str(tmp_path / "run"))
    fit(config, first, progress=False)
    with pytest.raises(RunError, match="holds a finished run of clicks, not of clicks"):
        fit(config, second, progress=False)
    with pytest.raises(RunError, match="holds a finished run of clicks, not of others"):
        fit(config, replace(second, name="others"), progress=False)
    fit(replace(config, epochs=2), first, progress=False)


@pytest.mark.robustness
def test_the_same_data_under_another_path_are_the_same(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    path = write_clicks("a/clicks.csv")
    config = small(path, run_dir="run")
    assert fit(config, progress=False).config["dataset"] == str(tmp_path / path)  # says from anywhere what it was
    os.symlink(path, "link.csv")
    shutil.copy(path, "copy.csv")
    pl.read_csv(path).write_parquet("copy.parquet")
    names = ["./a/clicks.csv", tmp_path / path, "link.csv", "copy.csv", "copy.parquet", "~/copy.csv", "a", "a/"]
    for name in map(str, names):
        assert finished(replace(config, dataset=name)) is not None, name
        fit(replace(config, dataset=name), progress=False)


@pytest.mark.robustness
def test_other_settings_of_the_same_file_are_trained_in_its_place(tmp_path) -> None:
    config = small(write_clicks(tmp_path / "clicks.csv"), run_dir=str(tmp_path / "run"))
    fit(config, progress=False)
    for changes in ({"learning_rate": 0.01}, {"min_rating": 2.0}, {"seed": 3}, {"protocol": "paper"}, {"core": 2}):
        changed = replace(config, **changes)
        assert finished(changed) is None
        run = fit(changed, progress=False)
        assert finished(changed) is not None and not [note for note in run.environment["notes"] if "trained" in note]


@pytest.mark.robustness
def test_a_file_that_changed_is_trained_again_and_that_is_noted(tmp_path, capsys) -> None:
    config = small(write_clicks(tmp_path / "clicks.csv"), run_dir=str(tmp_path / "run"))
    old = fit(config, progress=False).environment["fingerprint"]
    write_clicks(tmp_path / "clicks.csv", seed=1)
    assert finished(config) is None
    run = fit(config)
    new = run.environment["fingerprint"]
    (note,) = [note for note in run.environment["notes"] if "trained again" in note]
    assert note.endswith(f"the data have changed since (fingerprints {old[:12]} and {new[:12]})")
    assert note in " ".join(capsys.readouterr().err.split())
    assert finished(config).environment["fingerprint"] == new


@pytest.mark.robustness
def test_a_run_is_found_again_from_another_folder(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    config = small(write_clicks("clicks.csv"), per_user=True, run_dir="~/runs/x/")
    trained = fit(config, progress=False)
    os.symlink("runs/x", "latest")
    (tmp_path / "runs" / "other").mkdir()
    monkeypatch.chdir("runs/x")
    loaded = [load("."), load("../x/"), load("~/runs/x"), load(tmp_path / "latest")]
    (tmp_path / "latest").unlink()
    os.symlink("runs/other", tmp_path / "latest")  # a run is what it was when it was loaded
    monkeypatch.chdir("/")
    for run in (trained, *loaded):
        assert run.path == tmp_path / "runs" / "x"
        assert len(run.per_user)
        assert finished(replace(config, dataset=run.config["dataset"])) is not None
