"""Which code has made a number: a digest that changes with what the code does."""

from __future__ import annotations

from pathlib import Path

import mrl
from mrl.report import code
from mrl.report.code import APART, RECIPE, code_files, code_version, digest


def test_the_version_follows_what_code_does_and_not_how_it_reads() -> None:
    plain = code._without_docstrings("def f(x):\n    return x + 1\n")
    retold = code._without_docstrings('"""F."""\ndef f(x):\n    """Add one."""\n    return (x\n + 1)  # why\n')
    assert plain == retold != code._without_docstrings("def f(x):\n    return x + 2\n")


def test_the_files_of_folders_count_but_for_those_apart() -> None:
    package = Path(mrl.__file__).parent
    names = {path.relative_to(package).as_posix() for path in code_files(RECIPE)}
    assert {"least_squares/ials.py", "softmax.py", "evaluation/ranking.py"} < names and not names & set(APART)
    assert all((package / name).exists() for name in RECIPE) and code_files(APART) == [package / APART[0]]


def test_versions_are_short_and_differ() -> None:
    assert len(code_version(RECIPE)) == 8 and code_version(RECIPE) != code_version(RECIPE[:-1])


def test_digests_do_not_depend_on_the_order_of_names() -> None:
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1}) != digest({"a": 1, "b": [3]})
