"""An index on disk: the same answers, damage refused; readers see one version or the next, never half of one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from served import made_run, popular_run

from mrl.errors import RunError
from mrl.serving import Index, open_index, publish, save_index

OPTIONS = [
    {},
    {"widths": [4, 8], "shortlist": [40], "bits": 8},
    {"bits": 16},
    {"bits": 1, "shortlist": [60]},
    {"backend": "faiss", "kind": "ivf", "bits": 8},
    {"backend": "faiss", "kind": "hnsw"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_an_index_read_back_answers_the_same_and_can_be_updated(options: dict, tmp_path: Path) -> None:
    if options.get("backend"):
        pytest.importorskip("faiss")
    run = made_run()
    index = Index(run, **options)
    index.remove([10])
    save_index(index, tmp_path / "index")
    again = open_index(tmp_path / "index", verify=True)
    users = run.user_ids.tolist()
    assert again.search(users, 15).equals(index.search(users, 15))
    assert repr(again) == repr(index)
    assert again.search(run.users, 3, only=again.catalogue.labels["year"].to_numpy() > 1990).height == 36
    again.remove([13])
    assert 13 not in again.search(users, 40)["item"]
    assert open_index(tmp_path / "index").search(users, 15).equals(index.search(users, 15))  # the files are as before


@pytest.mark.parametrize("options", [{}, {"widths": [4, 8], "shortlist": [200], "bits": 8}], ids=str)
def test_popularity_is_kept(options: dict, tmp_path: Path) -> None:
    run = popular_run()
    index, users = Index(run, **options, popularity=0.5), run.user_ids.tolist()
    publish(index, tmp_path / "served")
    again = open_index(tmp_path / "served", verify=True)
    assert repr(again) == repr(index) and again.search(users, 10).equals(index.search(users, 10))
    save_index(again, tmp_path / "copy")  # without the run
    assert open_index(tmp_path / "copy").search(run.users, 10).equals(index.search(run.users, 10))
    assert not (save_index(Index(run), tmp_path / "plain") / "directions.npy").exists()


def test_vectors_alone_are_kept_too(tmp_path: Path) -> None:
    run = made_run()
    save_index(Index(run.items), tmp_path / "index")
    assert open_index(tmp_path / "index").search(run.users, 5).equals(Index(run.items).search(run.users, 5))


def test_damage_is_refused(tmp_path: Path) -> None:
    folder = save_index(Index(made_run()), tmp_path / "index")
    items = folder / "items.npy"
    whole = items.read_bytes()
    items.write_bytes(whole[:-1] + b"x")
    open_index(folder)
    with pytest.raises(RunError, match=r"items.npy: does not match its checksum; restore a copy or write it again$"):
        open_index(folder, verify=True)
    items.write_bytes(whole[:-1])
    with pytest.raises(RunError, match=r"items.npy: does not match its \d+ bytes"):
        open_index(folder)
    items.unlink()
    with pytest.raises(RunError, match=r"items.npy: cannot be read"):
        open_index(folder)
    (folder / "manifest.json").unlink()
    with pytest.raises(RunError, match=r"index: is no index \(no manifest.json\)"):
        open_index(folder)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match="no index, so it is not written over"):
        save_index(Index(made_run()), tmp_path / "mine")


WRITER = """
import sys
sys.path.insert(0, sys.argv[2])
from served import made_run
from mrl.serving import Index, publish
for number in range(10_000):
    run = made_run(number % 2, items=3000)
    publish(Index(run, bits=8), sys.argv[1])
    print(number, flush=True)
"""


def test_readers_see_whole_versions_while_a_writer_publishes_and_is_killed(tmp_path: Path) -> None:
    runs = [made_run(seed, items=3000) for seed in (0, 1)]
    folder, users = tmp_path / "served", runs[0].user_ids.tolist()
    known = [Index(run, bits=8).search(users, 5).rows() for run in runs]
    publish(Index(runs[0], bits=8), folder)
    held = open_index(folder)
    command = [sys.executable, "-c", WRITER, str(folder), str(Path(__file__).parents[1])]
    seen, deadline = [], time.monotonic() + 60

    def read(_: int) -> int:
        while True:
            try:
                return known.index(open_index(folder, verify=True).search(users, 5).rows())
            except RunError:  # its version was removed after its name was read: two newer ones came in between
                assert time.monotonic() < deadline

    for kill_after in (3, 4):
        writer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        for _ in range(kill_after):
            assert writer.stdout.readline()
        with ThreadPoolExecutor(2) as readers:
            seen += readers.map(read, range(20))
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        seen.append(read(0))
    assert set(seen) == {0, 1}
    assert held.search(users, 5).rows() == known[0]  # its files are gone from the folder by now, not for who holds them
    path = publish(Index(runs[1], bits=8), folder)
    assert open_index(folder).search(users, 5).rows() == known[1]
    assert len([name for name in os.listdir(folder) if name.isdigit()]) == 2
    assert path.name == (folder / "CURRENT").read_text()
    assert np.array_equal(open_index(path).catalogue.items, runs[1].items.numpy())
