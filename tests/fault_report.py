"""A pytest plugin: marks the tests of the table in `faults.py`, and writes which of them passed, for people.

`pytest -m robustness` does all of it: 100 kills, 10 000 fuzz cases. Any other run does a short selection of both.
`--fault-report=FILE` writes the table (with `=`: pytest takes a file that is there for one of tests).
"""

from __future__ import annotations

import os
import platform
import time
from collections import Counter, defaultdict
from pathlib import Path

import faults
import pytest
import torch

KILLS, FUZZ_CASES = (6, 100), (1_000, 10_000)  # in a short run, in a full one
COUNTED = ("kills", "fuzz cases", "bad inputs")

FULL = pytest.StashKey[bool]()
OUTCOMES = pytest.StashKey[dict]()
STARTED = pytest.StashKey[float]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("faults and bad input")
    where = "in `pytest -m robustness`"
    group.addoption("--kills", type=int, help=f"trainings to kill (default {KILLS[0]}; {KILLS[1]} {where})")
    group.addoption("--fuzz", type=int, help=f"fuzz cases (default {FUZZ_CASES[0]}; {FUZZ_CASES[1]} {where})")
    group.addoption("--fault-report", type=Path, metavar="FILE", help="write the table of faults and outcomes")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[FULL] = config.getoption("markexpr").strip() == "robustness"
    config.stash[OUTCOMES] = defaultdict(list)
    config.stash[STARTED] = time.perf_counter()


@pytest.fixture
def full_run(request: pytest.FixtureRequest) -> bool:
    """Whether every robustness case is tried, not the short selection."""
    return request.config.stash[FULL]


@pytest.fixture
def kills(request: pytest.FixtureRequest, full_run: bool) -> int:
    """How many trainings to kill."""
    return request.config.getoption("kills") or KILLS[full_run]


@pytest.fixture
def fuzz_cases(request: pytest.FixtureRequest, full_run: bool) -> int:
    """How many fuzz cases to try."""
    return request.config.getoption("fuzz") or FUZZ_CASES[full_run]


@pytest.hookimpl(tryfirst=True)  # before `-m` deselects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    named = {faults.test_name(test) for row in (*faults.FAULTS, *faults.PROPERTIES) for test in row.tests}
    for item in items:
        if _name(item.nodeid) in named and item.get_closest_marker("robustness") is None:
            item.add_marker("robustness")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item):
    report = yield
    if report.when == "call" or report.outcome != "passed":
        item.config.stash[OUTCOMES][_name(item.nodeid)].append(report)
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    target = session.config.getoption("fault_report")
    if target:
        seconds = time.perf_counter() - session.config.stash[STARTED]
        target.write_text(table(session.config.stash[OUTCOMES], seconds), encoding="utf-8")


def table(outcomes: dict[str, list[pytest.TestReport]], seconds: float) -> str:
    """The report, in Markdown."""
    totals: Counter[str] = Counter()
    for reports in outcomes.values():
        for report in reports:
            totals.update({name: value for name, value in report.user_properties if name in COUNTED})
    named = {faults.test_name(test) for row in faults.FAULTS for test in row.tests}
    totals["bad inputs"] += sum(len(reports) for name, reports in outcomes.items() if name in named)
    every = [report.outcome for reports in outcomes.values() for report in reports]
    machine = (
        f"{platform.system()}, Python {platform.python_version()}, torch {torch.__version__}, {os.cpu_count()} cores"
    )
    cuda = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    lines = [
        "# Faults and bad input",
        "",
        "Written by `make robustness`; not by hand. Each row is provoked for real by the tests beside it.",
        "",
        f"- {totals['kills']:,} trainings killed and resumed, every end compared bit for bit with an undisturbed run",
        f"- {totals['fuzz cases']:,} fuzz cases over everything that reads a file",
        f"- {totals['bad inputs']:,} bad inputs and faults beside those",
        f"- {every.count('passed'):,} tests passed, {every.count('failed')} failed, {every.count('skipped')} skipped, "
        f"in {seconds / 60:.1f} minutes ({machine}, {cuda})",
        "",
    ]
    for title, rows in (("Faults", faults.FAULTS), ("Properties", faults.PROPERTIES)):
        first = "fault" if title == "Faults" else "what"
        lines += [f"## {title}", "", f"| {first} | what must happen | tests | outcome |", "|---|---|---|---|"]
        lines += [_line(row, outcomes) for row in rows]
        lines.append("")
    return "\n".join(lines)


def _line(row: faults.Row, outcomes: dict[str, list[pytest.TestReport]]) -> str:
    tests, all_reports = [], []
    for test in row.tests:
        reports = outcomes.get(faults.test_name(test), [])
        counts = Counter()
        for report in reports:
            counts.update({name: value for name, value in report.user_properties if name in COUNTED})
        times = f" × {len(reports)}" if len(reports) > 1 else ""
        totals = "".join(f", {value:,} {name}" for name, value in counts.items())
        tests.append(f"`{faults.test_name(test)}`{times}{totals}")
        all_reports += reports or [None]
    number = Counter("not run" if report is None else report.outcome for report in all_reports)
    order = [outcome for outcome in ("failed", "not run", "passed", "skipped") if number[outcome]]
    outcome = ", ".join(f"{number[outcome]} {outcome}" for outcome in order)
    return f"| {row.fault} | {row.behaviour} | {'<br>'.join(tests)} | {outcome} |"


def _name(nodeid: str) -> str:
    """`tests/runs/test_run.py::test_load[case]` → `runs/test_run.py::test_load`."""
    return nodeid.partition("[")[0].removeprefix("tests/")
