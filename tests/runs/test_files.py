"""The files of a run directory are read back the same in a forked process, where another one reads them."""

from __future__ import annotations

import polars as pl
import pytest

from mrl.errors import RunError
from mrl.runs.files import parse_file, read_frame, read_ids


@pytest.mark.parametrize("is_forked", [False, True])
def test_frames_are_read_the_same_in_a_forked_process(tmp_path, monkeypatch, is_forked):
    monkeypatch.setattr("mrl.runs.files.is_forked", lambda: is_forked)
    frame = pl.DataFrame({"number": [1, None], "value": [0.5, float("nan")], "text": ["a, b", None]})
    frame.write_csv(tmp_path / "a.csv")
    assert read_frame(tmp_path / "a.csv").equals(frame)
    lists = frame.with_columns(labels=pl.Series([["x", "y"], None]))
    lists.write_parquet(tmp_path / "a.parquet")
    assert read_frame(tmp_path / "a.parquet").equals(lists)
    with pytest.raises(RunError, match=r"gone.csv: there is no such file"):
        parse_file(tmp_path / "gone.csv", read_frame)
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(RunError, match=r"a.parquet: cannot be read \(.*\); restore a copy"):
        parse_file(tmp_path / "a.parquet", read_frame)


def test_ids_that_are_mixed_up_are_refused(tmp_path):
    table = pl.DataFrame({"side": ["item", "user"], "row": [0, 0], "id": ["1", "2"], "integer": [True, True]})
    table.write_parquet(tmp_path / "ids.parquet")
    with pytest.raises(RunError, match="rows are missing or out of order"):
        read_ids(tmp_path / "ids.parquet")
