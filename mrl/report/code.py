"""Which code has made a number: a digest of the source files that it depends on.

Numbers of tables that take long to make carry it, so that they are not made again while their code is the same, and
say so when it is not.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import mrl

# Files and folders of `mrl`. What settings and data say is in other keys.
RANKING = ("evaluation", "kernels/topk.py", "widths.py")
TRAINING = (
    *RANKING, "kernels/bpr.py", "kernels/candidates.py", "kernels/row_adam.py", "kernels/sparse.py", "loss.py",
    "model.py", "recipes.py", "sampler.py", "trainer.py",
)  # fmt: skip
ALS = (
    *RANKING, "kernels/row_systems.py", "kernels/sparse.py", "least_squares/axes.py", "least_squares/ials.py",
    "model.py",
)  # fmt: skip
RECIPE = (
    *TRAINING, "distillation.py", "kernels/row_systems.py", "least_squares",
    "softmax.py", "train.py",
)  # fmt: skip
APART = ("least_squares/stages.py",)  # in a folder, but it fits nothing that the recipe does not


@cache
def code_version(code: tuple[str, ...]) -> str:
    """Changes with what these files and folders of `mrl` do, not with their comments, docstrings or layout."""
    return digest([_without_docstrings(path.read_text(encoding="utf-8")) for path in code_files(code)])


def code_files(code: Sequence[str]) -> list[Path]:
    """The files of these files and folders of `mrl`, of folders without those of APART."""
    package = Path(mrl.__file__).parent
    apart = {package / name for name in APART}
    places = [package / name for name in code]
    return sorted(
        {file for place in places for file in ([place] if place.is_file() else {*place.rglob("*.py")} - apart)}
    )


def _without_docstrings(source: str) -> str:
    """What source text does, as its syntax tree."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body.pop(0)
    return ast.dump(tree)


def digest(value: Any) -> str:
    """Eight characters that tell JSON values apart, whatever the order of their names."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]
