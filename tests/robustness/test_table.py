"""The table of faults is true: every test it names is there, and the report says what came of it."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import fault_report
import faults
import pytest

TESTS = Path(__file__).parents[1]
ROWS = (*faults.FAULTS, *faults.PROPERTIES)


def test_every_test_in_the_table_is_there():
    for row in ROWS:
        for test in row.tests:
            file, _, name = faults.test_name(test).partition("::")
            assert re.search(rf"^def {name}\(", (TESTS / file).read_text(encoding="utf-8"), re.M), test


def test_every_test_of_faults_is_in_the_table():
    named = {faults.test_name(test) for row in ROWS for test in row.tests}
    paths = [path for path in sorted(TESTS.glob("robustness/test_*.py")) if path.name != Path(__file__).name]
    assert paths
    for path in paths:
        tests = re.findall(r"^def (test_\w+)\(", path.read_text(encoding="utf-8"), re.M)
        assert [test for test in tests if f"robustness/{path.name}::{test}" not in named] == []


def test_the_committed_report_has_every_row_and_no_failure():
    report = (TESTS.parent / "reports" / "robustness.md").read_text(encoding="utf-8")
    lines = [line for line in report.splitlines() if line.startswith("| ")]
    for row in ROWS:
        assert any(line.startswith(f"| {row.fault} | {row.behaviour} | ") for line in lines), row.fault
    assert not re.search(r"\d+ (failed|not run) *[,|]", "\n".join(lines))
    kills, cases = (
        int(re.search(rf"^- ([\d,]+) {what}", report, re.M)[1].replace(",", "")) for what in ("trainings", "fuzz")
    )
    assert kills >= 100 and cases >= 10_000


def test_the_report_tells_passed_from_failed_and_missing():
    def reports(*outcomes: str, **properties: int) -> list:
        return [SimpleNamespace(outcome=outcome, user_properties=list(properties.items())) for outcome in outcomes]

    row = faults.Row("fault", "what must happen", ("a::b", "a::c", "a::d"))
    line = fault_report._line(row, {"test_a.py::test_b": reports("passed", "failed", kills=3)})
    assert line.endswith("| 1 failed, 2 not run, 1 passed |") and "`test_a.py::test_b` × 2, 6 kills<br>" in line
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(faults, "FAULTS", (row,))
        text = fault_report.table({"test_a.py::test_b": reports("passed", kills=3)}, 60)
    assert "- 3 trainings killed" in text and "- 1 bad inputs" in text and "in 1.0 minutes" in text
