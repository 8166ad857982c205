"""The run directory: what is written comes back, and no fault leaves it half-written or makes it lie."""

from __future__ import annotations

import errno
import json
import math
import os
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from served import popular_run

from mrl.data.interactions import Interactions, Positives
from mrl.errors import ConfigError, DataError, RunError
from mrl.evaluation.evaluate import evaluate
from mrl.kernels import fast_paths
from mrl.popularity import project
from mrl.runs import Run, RunDirectory, check_compatible, default_path, differences, environment, load, tensorfile
from mrl.runs import directory as run_directory

USERS, ITEMS, DIM = 6, 30, 8


@pytest.fixture
def data() -> Interactions:
    rng = np.random.default_rng(0)
    part = rng.choice(3, size=(USERS, ITEMS), p=[0.6, 0.25, 0.15])
    train, test = (Positives.from_pairs(*np.nonzero(part == value), USERS, ITEMS) for value in (1, 2))
    labels = pl.DataFrame({"title": [f"Film {i}" for i in range(ITEMS)], "genres": [["a"], ["b", "c"]] * (ITEMS // 2)})
    users = np.array([f"u{user}" for user in range(USERS)], dtype=object)
    return Interactions(
        "films", train, Positives.empty(USERS, ITEMS), test, users, np.arange(ITEMS) * 10, labels, ("1 merged",)
    )


@pytest.fixture
def vectors() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(USERS, DIM, generator=generator), torch.randn(ITEMS, DIM, generator=generator)


def write(path: Path, data: Interactions, vectors, seed: int = 0) -> Path:
    evaluation = evaluate(*vectors, data, widths=(4, DIM), per_user=True)
    with RunDirectory(path) as directory:
        directory.write_config({"seed": seed, "widths": [4, DIM], "learning_rate": 1e-3})
        directory.write_ids(data)
        directory.write_seen(data.train)
        directory.write_weights(*vectors, {"users": vectors[0], "scale": torch.tensor(2.0)})
        directory.write_history(pl.DataFrame({"epoch": [1, 2], "loss": [0.5, math.nan]}))
        directory.write_per_user(evaluation.per_user)
        directory.write_environment(environment(data, "cpu"))
        directory.write_metrics(evaluation.tidy(dataset="films", model="mf", protocol="honest", seed=seed))
    return path


@pytest.fixture
def path(tmp_path, data, vectors) -> Path:
    return write(tmp_path / "runs" / "films-mf-0", data, vectors)


def test_what_was_written_comes_back(path, data, vectors):
    run = load(str(path))
    assert torch.equal(run.users, vectors[0]) and torch.equal(run.items, vectors[1])
    assert set(run.backbone) == {"users", "scale"} and torch.equal(run.backbone["users"], vectors[0])
    assert run.config == {"seed": 0, "widths": [4, DIM], "learning_rate": 1e-3}
    assert run.user_ids.tolist() == data.user_ids.tolist() and run.item_ids.dtype == np.int64
    assert run.item_ids.tolist() == data.item_ids.tolist()
    assert run.labels.equals(data.labels)
    assert run.seen == data.train
    assert run.history["epoch"].to_list() == [1, 2] and math.isnan(run.history["loss"][1])
    expected = evaluate(*vectors, data, widths=(4, DIM), per_user=True)
    assert run.metrics.columns[:5] == ["dataset", "model", "protocol", "seed", "split"]
    assert run.metrics.drop("dataset", "model", "protocol", "seed").equals(expected.table)
    assert run.per_user.drop("user_id").equals(expected.per_user)
    assert run.per_user["user_id"].to_list() == [f"u{row}" for row in expected.per_user["user"]]
    assert run.environment["fingerprint"] == data.fingerprint
    assert not list(path.glob(".*.tmp"))


def test_labels_and_integer_ids_are_optional(tmp_path, data, vectors):
    plain = Interactions(
        "plain", data.train, data.valid, data.test, np.arange(USERS) - 3, np.array(["x"] * ITEMS, object)
    )
    run = load(write(tmp_path / "run", plain, vectors))
    assert run.labels is None and run.user_ids.tolist() == [-3, -2, -1, 0, 1, 2] and run.item_ids[0] == "x"
    assert run.recommend(-3, k=2).columns == ["user", "item", "rank", "score"]


def test_by_width(path):
    run = load(path)
    table = run.by_width()
    assert table["width"].to_list() == [4, DIM] and "ndcg@20" in table.columns
    expected = run.metrics.filter(width=4, metric="recall", k=20)["value"][0]
    assert table.filter(width=4)["recall@20"][0] == expected
    assert "recall@5" in run.by_width(k=5).columns


def test_trials_best_first(path):
    run = load(path)
    rows = [{"phase": "settings", "trial": trial, "alpha0": 0.1, "nu": None, "value": trial % 3} for trial in range(4)]
    trials = replace(
        run, history=pl.DataFrame([*rows, {"phase": "search", "epoch": 1}], infer_schema_length=None)
    ).trials
    assert trials["value"].to_list() == [2, 1, 0, 0] and trials.columns == ["trial", "alpha0", "value"]
    assert replace(run, history=pl.DataFrame()).trials.is_empty()


def test_default_path():
    assert default_path("ml-100k", "mrl", 3) == Path("runs/ml-100k-mrl-3")
    assert default_path("my data/../x", "mrl", 0).parent == Path("runs")


# --- recommend -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [None, 3, 8])
def test_recommendations_are_a_sort_of_the_scores(path, data, vectors, width):
    run = load(path)
    recommended = run.recommend(["u4", "u1"], k=5, width=width)
    assert recommended.columns == ["user", "item", "rank", "score", "title"]
    assert recommended["user"].to_list() == ["u4"] * 5 + ["u1"] * 5
    assert recommended["rank"].to_list() == [1, 2, 3, 4, 5] * 2
    for name, row in (("u4", 4), ("u1", 1)):
        scores = (vectors[0][row, :width].double() * vectors[1][:, :width].double()).sum(1)
        scores[data.train.of(row).long()] = -math.inf
        best = scores.argsort(descending=True)[:5]
        own = recommended.filter(user=name)
        assert own["item"].to_list() == (best * 10).tolist()
        assert own["score"].to_list() == pytest.approx(scores[best].tolist())
        assert own["title"].to_list() == [f"Film {item}" for item in best.tolist()]


def test_recommendations_leave_out_what_is_seen_and_end_where_nothing_is_left(path, data):
    run = load(path)
    recommended = run.recommend("u2", k=ITEMS)
    seen = {int(item) * 10 for item in data.train.of(2)}
    assert len(recommended) == ITEMS - len(seen) and not seen & set(recommended["item"])
    assert len(run.recommend("u2", k=ITEMS, exclude_seen=False)) == ITEMS


@pytest.mark.parametrize("width", [4, 8])
def test_popularity_is_projected_out_of_both_sides(width):
    run = popular_run()
    users, directions = run.user_ids.tolist(), run.popularity.directions
    assert run.recommend(users, 5, width, popularity=1).equals(run.recommend(users, 5, width))
    assert directions.shape[1] >= 2 and run.popularity.widths == (4, 8)
    for left in (0, 0.5):
        sides = [project(side.double(), directions, 1 - left)[:, :width] for side in (run.users, run.items)]
        scores = sides[0] @ sides[1].T
        for user, found in run.recommend(users, 5, width, popularity=left).group_by("user", maintain_order=True):
            row = users.index(user[0])
            scores[row, run.seen.of(row)] = -math.inf
            assert found["item"].to_list() == run.item_ids[scores[row].argsort(descending=True)[:5]].tolist()
            assert np.allclose(found["score"], scores[row].sort(descending=True).values[:5], atol=1e-5)
    liked = [run.recommend(users, 5, width, popularity=left)["item"].to_list() for left in (1, 0)]
    counts = dict(zip(run.item_ids.tolist(), run.seen.item_counts.tolist(), strict=True))
    assert sum(counts[item] for item in liked[0]) > sum(counts[item] for item in liked[1])


def test_popularity_is_refused_where_it_is_out_of_range_or_unknown(path):
    run = load(path)
    with pytest.raises(ConfigError, match=r"^popularity=-1: must be a number from 0 to 1; 1 is as trained, 0 without"):
        run.recommend("u0", popularity=-1)
    (path / "seen.safetensors").unlink()
    with pytest.raises(RunError, match=r"has no seen.safetensors, so how popular items are is unknown; train again$"):
        load(path).recommend("u0", exclude_seen=False, popularity=0.5)
    assert len(load(path).recommend("u0", exclude_seen=False, popularity=1.0)) == 10


def test_recommendations_for_nobody(path):
    assert load(path).recommend([]).is_empty()


def test_impossible_recommendations(path):
    run = load(path)
    with pytest.raises(RunError, match=r"user 'nobody' is not in .*like \['u0', 'u1', 'u2'\]"):
        run.recommend("nobody")
    with pytest.raises(RunError, match="user 7 is not in"):
        run.recommend(7)
    for k in (0, ITEMS + 1):
        with pytest.raises(ConfigError, match=f"k={k}: must be from 1 to {ITEMS}"):
            run.recommend("u0", k=k)
    with pytest.raises(ConfigError, match="wider than the 8"):
        run.recommend("u0", width=9)
    (path / "seen.safetensors").unlink()
    with pytest.raises(RunError, match="exclude_seen=False"):
        load(path).recommend("u0")


# --- faults in what is read ------------------------------------------------------------------------------------------


@pytest.mark.robustness
@pytest.mark.parametrize("name", ["config.json", "environment.json", "ids.parquet"])
def test_missing_files(path, name):
    (path / name).unlink()
    with pytest.raises(RunError, match=rf"{name}: there is no such file; .*train it again"):
        load(path)


@pytest.mark.robustness
def test_not_a_run_directory(tmp_path):
    for missing in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(RunError, match="is not a run directory"):
            load(missing)


@pytest.mark.robustness
def test_an_interrupted_run(tmp_path):
    with RunDirectory(tmp_path) as directory:
        directory.save_checkpoint({}, {"fingerprint": "a", "widths": [4]})
    with pytest.raises(RunError, match="was interrupted; train with the same settings to resume"):
        load(tmp_path)


@pytest.mark.robustness
@pytest.mark.parametrize("name", ["config.json", "environment.json", "ids.parquet", "weights.safetensors"])
@pytest.mark.parametrize("damage", ["empty", "half", "noise"])
def test_damaged_files(path, name, damage):
    file = path / name
    content = file.read_bytes()
    noise = np.random.default_rng(0).bytes(len(content))
    file.write_bytes({"empty": b"", "half": content[: len(content) // 2], "noise": noise}[damage])
    with pytest.raises(RunError) as error:
        load(path)
    assert str(file) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.robustness
def test_json_that_is_no_object(path):
    (path / "config.json").write_text("[1]")
    with pytest.raises(RunError, match="not a JSON object"):
        load(path)


@pytest.mark.robustness
@pytest.mark.parametrize(
    "earlier",
    [
        {"recipe": "refined", "shares": [1.0, 1.0], "turn": 8, "alpha0": 0.1},
        {"test_fraction": 0.2},
        {"least_squares": {"alpha0": 0.1, "rotation_width": 8, "trials": 12}},
    ],
)
def test_a_run_of_an_earlier_version_says_so_in_one_line(path, earlier):
    """As the default recipe and a control that is computed had their settings before there were sections, and as the
    default recipe had them before its fit was wide."""
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | earlier))
    with pytest.raises(RunError, match=r"an earlier version of mrl wrote this run, .* train again, or read") as error:
        load(path)
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)


class Bomb:
    """What unpickling would set off."""

    def __reduce__(self):
        return os.mkdir, ("exploded",)


@pytest.mark.robustness
@pytest.mark.parametrize("name", ["weights.safetensors", "seen.safetensors"])
@pytest.mark.parametrize("how", ["pickle", "torch"])
def test_a_pickle_is_refused_and_not_opened(path, name, how, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if how == "pickle":
        (path / name).write_bytes(pickle.dumps(Bomb()))
    else:
        torch.save({"users": Bomb()}, path / name)
    with pytest.raises(RunError, match=rf"{name}: is a pickle .*refused, save it as safetensors"):
        load(path)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.robustness
@pytest.mark.parametrize("place", [-1, -400, 60])
def test_a_single_changed_byte_is_noticed(path, place):
    file = path / "weights.safetensors"
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)
    with pytest.raises(RunError, match=r"weights\.safetensors: "):
        load(path)


@pytest.mark.robustness
def test_weights_from_elsewhere_are_refused(path, data, vectors):
    from safetensors.torch import save_file

    save_file({"users": vectors[0], "items": vectors[1]}, path / "weights.safetensors")
    with pytest.raises(RunError, match="does not match its checksum"):
        load(path)


@pytest.mark.robustness
@pytest.mark.parametrize("users, items", [(USERS - 1, DIM), (USERS, DIM - 1)])
def test_weights_of_another_run_are_refused(path, users, items):
    content = tensorfile.dump({"users": torch.ones(users, DIM), "items": torch.ones(ITEMS, items)})
    (path / "weights.safetensors").write_bytes(content)
    with pytest.raises(
        RunError, match=rf"users \({users}, 8\) and items \(30, {items}\) do not fit the 6 users and 30"
    ):
        load(path)


@pytest.mark.robustness
def test_seen_items_that_do_not_exist_are_refused(path):
    content = tensorfile.dump({"offsets": torch.tensor([0, 1, 1, 1, 1, 1, 1]), "items": torch.tensor([ITEMS])})
    (path / "seen.safetensors").write_bytes(content)
    with pytest.raises(RunError, match=r"seen\.safetensors: does not fit"):
        load(path)


@pytest.mark.robustness
def test_ids_with_a_missing_row_are_refused(path):
    ids = pl.read_parquet(path / "ids.parquet")
    ids.filter(pl.col("row") != 2).write_parquet(path / "ids.parquet")
    with pytest.raises(RunError, match=r"ids\.parquet: was damaged or changed since weights\.safetensors was saved"):
        load(path)
    (path / "weights.safetensors").unlink()
    with pytest.raises(RunError, match=r"ids\.parquet: is not a table of ids \(rows are missing or out of order\)"):
        load(path)


@pytest.mark.robustness
def test_a_file_of_another_format_version(path, monkeypatch):
    monkeypatch.setattr(tensorfile, "FORMAT", 2)
    with pytest.raises(RunError, match="has format 1, this version of mrl reads format 2"):
        load(path)


def test_a_run_without_vectors_still_has_metrics(path):
    (path / "weights.safetensors").unlink()
    run = load(path)
    assert len(run.metrics)
    with pytest.raises(RunError, match="has metrics but no vectors"):
        run.recommend("u0")


# --- checkpoints -----------------------------------------------------------------------------------------------------


STATE = {
    "parameter": torch.randn(3, 4, generator=torch.Generator().manual_seed(0)),
    "generator": torch.Generator().manual_seed(7).get_state(),
    "epoch": torch.tensor(3),
    "empty": torch.empty(0, 5),
    "half": torch.ones(2, dtype=torch.bfloat16),
}
META = {"fingerprint": "abc", "widths": [4, 8], "rows": [{"epoch": 1, "loss": 0.25}], "best_value": -math.inf}


def test_a_checkpoint_comes_back_bit_for_bit(tmp_path):
    with RunDirectory(tmp_path) as directory:
        assert directory.load_checkpoint() is None
        directory.save_checkpoint(STATE | {"view": STATE["parameter"].T, "same": STATE["parameter"]}, META)
        tensors, meta = directory.load_checkpoint()
        assert meta == META
        assert torch.equal(tensors["view"], STATE["parameter"].T) and torch.equal(tensors["same"], STATE["parameter"])
        for name, tensor in STATE.items():
            assert tensors[name].dtype == tensor.dtype and torch.equal(tensors[name], tensor)
        directory.drop_checkpoint()
        directory.drop_checkpoint()
        assert directory.load_checkpoint() is None


def test_a_checkpoint_must_tell_what_it_belongs_to(tmp_path):
    with RunDirectory(tmp_path) as directory, pytest.raises(RunError, match=r"lacks \['widths'\]"):
        directory.save_checkpoint(STATE, {"fingerprint": "abc"})


@pytest.mark.robustness
def test_a_checkpoint_of_another_run_is_refused():
    check_compatible(META, fingerprint="abc", widths=(4, 8))
    with pytest.raises(RunError, match="another data set: fingerprint abc, not xyz; give another run_dir"):
        check_compatible(META, fingerprint="xyz", widths=(4, 8))
    with pytest.raises(RunError, match=r"made with widths \[4, 8\], not \[4, 8, 16\]"):
        check_compatible(META, fingerprint="abc", widths=(4, 8, 16))
    with pytest.raises(RunError, match=r"made with l2 0\.1, not 0\.2"):
        check_compatible({"config": {"l2": 0.1, "seed": 0}}, config={"l2": 0.2, "seed": 0})
    earlier, settings = {"l2": 0.1, "alpha0": 0.3}, {"l2": 0.1, "least_squares": {"alpha0": 0.3}}
    gone = {"l2": 0.1, "least_squares": {"alpha0": 0.3, "popularity_exponent": 0.5}}
    for made in (earlier, gone):
        with pytest.raises(RunError, match=r"made by an earlier version of mrl, with which it can be .*; .*resume"):
            check_compatible(META | {"settings": made}, fingerprint="abc", widths=(4, 8), settings=settings)
    check_compatible(META | {"settings": settings}, fingerprint="abc", widths=(4, 8), settings=settings)


@pytest.mark.robustness
def test_a_tampered_checkpoint_is_refused(tmp_path):
    with RunDirectory(tmp_path) as directory:
        directory.save_checkpoint(STATE, META)
        file = tmp_path / "checkpoint.safetensors"
        file.write_bytes(file.read_bytes().replace(b"abc", b"xyz"))
        with pytest.raises(RunError, match=r"checkpoint\.safetensors: does not match its checksum"):
            directory.load_checkpoint()


# --- faults while writing --------------------------------------------------------------------------------------------


@pytest.mark.robustness
@pytest.mark.parametrize("where", ["fsync", "replace", "write"])
def test_a_full_disk_leaves_the_previous_checkpoint_whole(tmp_path, monkeypatch, where):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    with RunDirectory(tmp_path) as directory:
        directory.save_checkpoint(STATE, META)
        with monkeypatch.context() as patch:
            if where == "write":
                patch.setattr(Path, "open", lambda self, *a: _FullFile(Path.touch(self)))
            else:
                patch.setattr(run_directory.os, where, full)
            with pytest.raises(
                RunError, match=r"checkpoint\.safetensors: could not be saved \(No space left on device\)"
            ):
                directory.save_checkpoint({"epoch": torch.tensor(99)}, META)
        tensors, _ = directory.load_checkpoint()
        assert tensors["epoch"] == 3
        assert not list(tmp_path.glob(".*.tmp"))
        directory.save_checkpoint({"epoch": torch.tensor(4)}, META)
        assert directory.load_checkpoint()[0]["epoch"] == 4


class _FullFile:
    def __init__(self, _: None) -> None: ...

    def __enter__(self) -> _FullFile:
        return self

    def __exit__(self, *_: object) -> None: ...

    def write(self, _: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.robustness
def test_temporary_files_of_a_killed_writer_are_cleared(tmp_path):
    (tmp_path / ".weights.safetensors.tmp").write_bytes(b"half")
    (tmp_path / "mine.tmp").write_bytes(b"not ours")
    with RunDirectory(tmp_path):
        assert not (tmp_path / ".weights.safetensors.tmp").exists() and (tmp_path / "mine.tmp").exists()


@pytest.mark.robustness
def test_the_second_writer_is_refused(tmp_path):
    refused = pytest.raises(RunError, match="another process is writing this run; wait for it or give another run_dir")
    with RunDirectory(tmp_path), refused:
        RunDirectory(tmp_path)
    with RunDirectory(tmp_path) as again:
        again.close()


@pytest.mark.robustness
def test_a_path_that_cannot_be_a_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"file: cannot be written \(File exists\); give another run_dir"):
        RunDirectory(tmp_path / "file")


WRITER = """
import sys, torch
from mrl.runs import RunDirectory
with RunDirectory(sys.argv[1]) as directory:
    for epoch in range(10**6):
        state = {"epoch": torch.tensor(epoch), "parameter": torch.full((400_000,), float(epoch))}
        directory.save_checkpoint(state, {"fingerprint": "a", "widths": [4], "epoch": epoch})
"""


@pytest.mark.robustness
def test_a_killed_writer_leaves_a_whole_checkpoint_and_no_lock(tmp_path):
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], env=os.environ | {"OMP_NUM_THREADS": "1"})
    try:
        until = time.monotonic() + 60
        while not (tmp_path / "checkpoint.safetensors").exists():
            assert writer.poll() is None and time.monotonic() < until
            time.sleep(0.02)
        time.sleep(0.2)
        with pytest.raises(RunError, match="another process"):
            RunDirectory(tmp_path)
    finally:
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    with RunDirectory(tmp_path) as directory:
        tensors, meta = directory.load_checkpoint()
        assert tensors["epoch"] == meta["epoch"] and bool((tensors["parameter"] == meta["epoch"]).all())
        assert not list(tmp_path.glob(".*.tmp"))


@pytest.mark.robustness
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_vectors_that_are_not_finite_are_not_saved(tmp_path, vectors, bad):
    vectors[1][3, 2] = bad
    with RunDirectory(tmp_path) as directory, pytest.raises(RunError, match="NaN or Inf and are not saved"):
        directory.write_weights(*vectors)
    assert not (tmp_path / "weights.safetensors").exists()


def test_settings_that_json_cannot_hold(tmp_path):
    with RunDirectory(tmp_path) as directory:
        for value in (math.nan, object()):
            with pytest.raises(RunError, match=r"config\.json: cannot be written as JSON"):
                directory.write_config({"l2": value})
    assert not (tmp_path / "config.json").exists()


def test_cleared_results_are_no_finished_run(path):
    with RunDirectory(path) as directory:
        directory.clear_results()
    with pytest.raises(RunError, match="is not a run directory"):
        load(path)


# --- where it was made -----------------------------------------------------------------------------------------------


def test_environment(data, monkeypatch, tmp_path):
    facts = environment(data, "cpu")
    assert json.loads(json.dumps(facts)) == facts
    assert facts["fingerprint"] == data.fingerprint and facts["dataset"] == "films" and facts["notes"] == ["1 merged"]
    assert facts["torch"] == torch.__version__ and facts["device"] == "cpu" and facts["threads"] >= 1
    assert facts["git_commit"] is None or len(facts["git_commit"]) == 40
    monkeypatch.setattr(run_directory, "__file__", str(tmp_path / "mrl" / "runs" / "directory.py"))
    assert environment(data, "cpu")["git_commit"] is None


def test_environment_tells_which_fast_paths_of_a_gpu_were_used(data, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a GPU")
    with fast_paths.check_anew(), pytest.warns(UserWarning, match="^bfloat16_candidates is off, so "):
        assert fast_paths.is_usable("cuda_graph", bool, bool, lambda fast, plain: None)
        fast_paths.turn_off("bfloat16_candidates", "no such kernel")
        facts = environment(data, "cuda")
        assert facts["fast_paths"] == {"cuda_graph": "used", "bfloat16_candidates": "off: no such kernel"}
        assert json.loads(json.dumps(facts)) == facts
        assert environment(data, "cpu")["fast_paths"] == {}


def test_differences(path, tmp_path, data, vectors):
    first = load(path)
    second = load(write(tmp_path / "other", data, vectors, seed=1))
    assert differences(first, first).is_empty()
    of_process = ["environment.time", "environment.peak_memory_mib"]  # the second is no earlier, and may hold more
    changed = differences(first, second).filter(~pl.col("name").is_in(of_process))
    assert changed.rows() == [("config.seed", "0", "1")]
    assert isinstance(second, Run)


# --- what Python programs hold ---------------------------------------------------------------------------------------


@pytest.fixture
def numbered(tmp_path, data, vectors) -> Path:
    """Users 10 to 15, items 0 to 290."""
    return write(tmp_path / "numbered", replace(data, user_ids=np.arange(USERS) + 10), vectors)


@pytest.mark.robustness
@pytest.mark.parametrize(
    "users",
    [
        [12, 10], (12, 10), np.array([12, 10]), np.array([12.0, 10.0]), torch.tensor([12, 10]), pl.Series([12, 10]),
        pl.Series([12.0, 10.0]), ["12", "10"], ["12", 10], np.array(["12", "10"]), iter([12, 10]),
    ],
    ids=lambda users: type(users).__name__,
)  # fmt: skip
def test_users_are_known_by_their_id_whatever_holds_it(numbered, users):
    run = load(numbered)
    expected = pl.concat([run.recommend(12, k=3), run.recommend(10, k=3)])
    assert run.recommend(users, k=np.int64(3), width=np.int32(DIM)).equals(expected)
    assert expected["user"].to_list() == [12] * 3 + [10] * 3


@pytest.mark.robustness
def test_numbers_are_the_users_whose_text_they_are(tmp_path, data, vectors):
    ids = np.array(["1", "01", "a", "b", "c", "7"], dtype=object)
    run = load(write(tmp_path / "text", replace(data, user_ids=ids), vectors))
    assert run.recommend([7, 1.0], k=1)["user"].to_list() == ["7", "1"]
    assert run.recommend(torch.tensor(7), k=2).equals(run.recommend("7", k=2))


@pytest.mark.robustness
@pytest.mark.parametrize(
    ("users", "kind", "message"),
    [
        (b"12", DataError, "user id b'12': decode it"),
        (None, DataError, "user id at position 0 of 1 is missing"),
        ([10, float("nan")], DataError, "user id at position 1 of 2 is missing"),
        (True, DataError, "user id True"),
        (10.7, DataError, r"user id 10\.7 is no whole number"),
        ([[10]], DataError, r"user id \[10\]"),
        (2**63 + 5, DataError, "9223372036854775813 is past 64 bits"),
        ({10: 1}, DataError, "a dict is no list of ids"),
        ("010", RunError, "user '010' is not in"),
        ("10.0", RunError, "user '10.0' is not in"),
        (99, RunError, r"user 99 is not in .*like \[10, 11, 12\]"),
    ],
    ids=repr,
)
def test_what_is_no_user_is_named_in_one_line(numbered, users, kind, message):
    with pytest.raises(kind, match=message) as caught:
        load(numbered).recommend(users)
    assert "\n" not in str(caught.value)


@pytest.mark.robustness
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"k": 3.0}, "k=3.0: must be a whole number"),
        ({"k": True}, "k=True"),
        ({"k": "3"}, "k='3'"),
        ({"k": None}, "k=None"),
        ({"width": 8.0}, r"widths=\[8.0\]"),
        ({"width": True}, r"widths=\[True\]"),
        ({"width": "8"}, r"widths=\['8'\]"),
        ({"exclude_seen": "no"}, "exclude_seen='no': must be True or False"),
    ],
    ids=repr,
)
def test_impossible_settings_of_recommend_are_named(numbered, settings, message):
    with pytest.raises(ConfigError, match=message):
        load(numbered).recommend(10, **settings)


@pytest.mark.robustness
def test_a_run_is_found_by_a_path_of_any_kind_and_nothing_else(path, monkeypatch):
    monkeypatch.setenv("HOME", str(path.parents[1]))
    monkeypatch.setenv("USERPROFILE", str(path.parents[1]))
    for given in (path, str(path), f"{path}/", f"~/runs/{path.name}", Path("~/runs") / path.name):
        assert load(given).user_ids.tolist()[0] == "u0"
    for given in (bytes(path), None, 5, load(path), ""):
        with pytest.raises(RunError) as caught:
            load(given)
        assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="k=7: was not measured; there are 5, 10, 20 of test"):
        load(path).by_width(k=7)


@pytest.mark.robustness
def test_what_was_dropped_is_never_recommended_and_not_among_the_positives(path, data):
    run = load(path)
    assert run.dropped is None and len(run.met) == 1
    best = run.recommend("u1", k=3)["item"].to_list()
    rows = [item // 10 for item in best[:2]]
    dropped = Positives.from_pairs([1, 1], rows, USERS, ITEMS)
    with RunDirectory(path) as directory:
        directory.write_seen(data.train, dropped)
    run = load(path)
    assert run.seen == data.train and run.dropped == dropped
    assert run.recommend("u1", k=1)["item"].to_list() == best[2:]
    assert len(run.recommend("u1", k=ITEMS)) == ITEMS - len(data.train.of(1)) - 2
    assert run.recommend("u1", k=3, exclude_seen=False)["item"].len() == 3
    with RunDirectory(path) as directory:
        directory.write_seen(data.train, Positives.empty(USERS + 1, ITEMS))
    with pytest.raises(RunError, match="does not fit"):
        load(path)
