"""The line that says where a run stands."""

from __future__ import annotations

import io
import sys

import pytest

from mrl.recipes import USUAL
from mrl.runs import progress
from mrl.runs.progress import (
    DONE,
    LINE_WIDTH,
    PENALTY_TRIALS,
    Progress,
    cut_middle,
    describe_chosen,
    folded,
    readable_seconds,
    share_done,
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_on_a_terminal_one_line_rewrites_itself(monkeypatch, clock):
    monkeypatch.setattr(sys, "stderr", Terminal())
    line = Progress(shown=True)
    line.say("settings", "trial 1", 30.0)
    clock[0] += 0.01
    line.say("settings", "too soon")
    clock[0] += 1
    line.say("search", "epoch 1")
    line.note("done")
    shown = sys.stderr.getvalue()
    assert "too soon" not in shown and shown.count("\n") == 1 and shown.endswith("\n")
    parts = [part.rstrip() for part in shown.rstrip("\n").split("\r")]
    assert parts == ["", "settings: trial 1 (0 s, about 30 s left)", "search: epoch 1 (1 s)", "done"]


def test_where_nobody_watches_there_are_few_lines(monkeypatch, clock):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    line = Progress(shown=True)
    for trial in range(100):
        clock[0] += 1
        line.say("settings", f"trial {trial}")
    line.say("refit")
    lines = sys.stderr.getvalue().splitlines()
    assert (
        "\r" not in sys.stderr.getvalue() and lines[0] == "settings: trial 0 (1 s)" and lines[-1] == "refit (1:40 min)"
    )
    assert len(lines) == 100 / progress.RARELY + 1


def test_on_a_narrow_terminal_the_line_stays_one(monkeypatch, clock):
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("COLUMNS", "60")
    Progress(shown=True).say("settings", "trial 1 of about 16, " + "alpha0 0.3, " * 9 + "best 0.2367", 19.0)
    (shown,) = sys.stderr.getvalue().strip("\r").splitlines()
    assert len(shown) == 59 and shown.startswith("settings: trial 1") and shown.endswith("(0 s, about 19 s left)")
    assert cut_middle("short", 5) == "short" and cut_middle("abcdefghij", 9) == "abc … hij"


@pytest.mark.parametrize("stream", [Terminal, io.StringIO])
def test_a_long_note_is_folded(monkeypatch, clock, stream):
    monkeypatch.setattr(sys, "stderr", stream())
    note = "chosen: " + ", ".join(f"setting_{number} {number}" for number in range(30))
    Progress(shown=True).note(note)
    first, *others = [line.strip("\r") for line in sys.stderr.getvalue().rstrip("\n").split("\n")]
    assert others and all(len(line) <= LINE_WIDTH for line in (first, *others))
    assert all(line.startswith("  ") for line in others) and " ".join([first, *map(str.strip, others)]) == note


def test_where_nobody_watches_a_long_line_is_folded_between_words(monkeypatch, clock):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    text = "trial 9 of about 16, alpha0 0.1, frequency_l2 0.03, rotation True: ndcg@20 0.2218, best 0.2244"
    Progress(shown=True).say("settings", text)
    first, second = sys.stderr.getvalue().splitlines()
    assert len(first) <= LINE_WIDTH and f"{first} {second.strip()}" == f"settings: {text} (0 s)"
    assert folded("x " * 46 + "1 s") == ("x " * 46).strip() + "\n  1 s"


def test_what_was_chosen_is_told_where_it_is_not_the_usual():
    usual = USUAL | {"propagation": [0.5, 0.0]}  # as a checkpoint gives it
    chosen = usual | {"alpha0": 0.3, "fit_width": 256, "propagation": (0.5, 0.0), "level_weights": ()}
    assert describe_chosen(chosen, USUAL) == "chosen: alpha0 0.3, fit_width 256; the rest as usual"
    assert describe_chosen(chosen | {"sweeps": 2, "rotation": False}, USUAL) == (
        "chosen: sweeps 2, rotation False, alpha0 0.3, fit_width 256; the rest as usual"
    )
    assert describe_chosen({"propagation": [1.0, 1.0]}, USUAL) == "chosen: propagation [1.0, 1.0]"
    assert describe_chosen(USUAL, USUAL) == "chosen: the usual settings"


def test_nothing_is_said_where_it_is_not_shown(monkeypatch, clock):
    monkeypatch.setattr(sys, "stderr", Terminal())
    line = Progress(shown=False)
    line.say("settings", "trial 1")
    line.note("done")
    assert sys.stderr.getvalue() == ""


@pytest.mark.parametrize("asks, watched", [(True, True), (False, False)])
def test_in_a_notebook_somebody_watches_where_cells_may_ask(monkeypatch, asks, watched):
    class IPython:
        @staticmethod
        def get_ipython():
            kernel = type("Kernel", (), {"_allow_stdin": asks})()
            return type("Shell", (), {"kernel": kernel})()

    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setitem(sys.modules, "IPython", IPython)
    assert progress.is_watched() is watched


def test_more_is_done_with_every_trial():
    penalties = [share_done({"trial": trial, "alpha0": 0.1}) for trial in range(1, PENALTY_TRIALS + 3)]
    final = share_done({"trial": 9, "alpha0": 0.1, "rotation": True})
    later = [share_done({"trial": 11, name: 1}) for name in DONE]
    assert [*penalties, final, *later] == sorted([*penalties, final, *later]) and penalties[-1] == penalties[-2]
    assert penalties[0] > 0 and later[-1] < 1


def test_seconds_as_people_say_them():
    assert [readable_seconds(seconds) for seconds in (3.4, 185, 4830)] == ["3 s", "3:05 min", "1:20 h"]
