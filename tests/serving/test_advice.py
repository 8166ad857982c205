"""Which index to take: within the limits, the fastest, and what is said follows from what was measured."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from served import made_run

from mrl.errors import ConfigError
from mrl.runs import Run
from mrl.serving import ServeConfig, advise
from mrl.serving.advice import _sentence

SETTINGS = [{"widths": [8]}, {"widths": [2]}, {"widths": [8], "bits": 8}, {"widths": [2, 8], "shortlist": [900]}]


@pytest.fixture(scope="module")
def run() -> Run:
    return replace(made_run(1, users=200, items=3000, ties=False), config={"widths": [2, 8]})


def test_what_is_advised_is_within_the_limits_and_answers(run: Run) -> None:
    advice = advise(run, 0.9, bytes=20, k=10, settings=SETTINGS)
    assert advice.settings == {"widths": [8], "bits": 8, "threads": 1}
    assert advice.row == 2
    assert len(advice.table) == 4
    assert advice.index(run).search(run.user_ids[:3].tolist(), 10).height == 30
    assert advice.why.startswith("Of 3,000 items take the first 8 dimensions in int8: ")
    fastest = advise(run, 0.9, latency_ms=1000, k=10, settings=SETTINGS)
    fitting = fastest.table.filter(pl.col("overlap") >= 0.9)
    assert fastest.table["p50_ms"][fastest.row] <= fitting["p50_ms"].min() * 1.1


def test_by_itself_it_finds_settings_that_reach_what_is_asked(run: Run) -> None:
    advice = advise(run, 0.95, k=10)
    assert advice.table["overlap"][advice.row] >= 0.95
    assert np.mean(advice.table["pareto"].to_list()) > 0


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (
            {"recall": 0.99, "bytes": 1},
            "^nothing measured reaches overlap of 0.99 within 1 bytes an item; the nearest is",
        ),
        ({"latency_ms": 1e-6}, "^nothing measured reaches overlap of 0.98 within 1e-06 ms; the nearest is"),
        ({"recall": 0}, "^recall=0: must be above 0 and at most 1$"),
        ({"recall": 1.5}, "^recall=1.5: must be above 0 and at most 1$"),
        ({"bytes": -1}, "^bytes=-1: must be above 0$"),
    ],
)
def test_limits_that_nothing_fits_stop_in_one_line(run: Run, limits: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        advise(run, **{"k": 10, "settings": SETTINGS} | limits)


def test_the_sentence_says_where_an_exact_scan_is_as_fast() -> None:
    table = {"widths": [[8], [8]], "shortlist": [[], []], "bits": [32, 8], "backend": ["plain"] * 2, "kind": ["", ""]}
    table |= {"overlap_reported": [1.0, 0.99], "bytes_per_item": [64.0, 8.0]}
    run = made_run()
    for times, said in [
        (
            (0.2, 0.19),
            "The exact scan is as fast (0.2 ms): all that is saved is memory, 8 bytes an item in place of 64.",
        ),
        ((0.9, 0.3), "The exact scan takes 0.9 ms (3.0 ×) and 64 bytes."),
    ]:
        rows = pl.DataFrame(table | {"p50_ms": times})
        assert _sentence(rows.row(1, named=True), rows.head(1), 0.98, run).endswith(said)
        assert "nothing that finds 98 % of it is faster" in _sentence(rows.row(0, named=True), rows.head(1), 0.98, run)


def test_notebook_settings_are_checked() -> None:
    with pytest.raises(ConfigError, match="recall"):
        ServeConfig(run="runs/x", recall=2)
