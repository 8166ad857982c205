"""The version of the code that makes a model's numbers: when it changes, numbers made before are outdated.

Comments, docstrings and layout do not count, nor does code that has no part in the numbers, such as figures.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import textwrap
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

import mrl
from mrl.study.models import StudyModel

# Imported by what makes numbers, but the keys of a folder have their part already (settings, and data by their
# fingerprint), or they have none.
NOT_COUNTED = ("config", "data.datasets", "data.interactions", "data.load", "data.splits", "errors", "runs.run")


def code_version(model: StudyModel) -> str:
    """Eight characters that change with the code of a model.

    That code is its fit, with the functions beside it that it calls, and its modules, with those that they import.
    """
    functions = [_meaning(textwrap.dedent(inspect.getsource(function))) for function in _called(model.fit)]
    meanings = [*functions, *(_source_meaning(module) for module in _imported(model.modules))]
    return hashlib.sha256(json.dumps(meanings).encode()).hexdigest()[:8]


def _called(function: Callable) -> list[Callable]:
    """A function and those of its own module that it calls, directly or not."""
    called = [function]
    for caller in called:
        names = (caller.__globals__.get(name) for name in caller.__code__.co_names)
        beside = (other for other in names if inspect.isfunction(other) and other.__module__ == function.__module__)
        called += [other for other in dict.fromkeys(beside) if other not in called]
    return called


def _imported(modules: Iterable[str]) -> list[str]:
    """Modules of `mrl` and those of `mrl` that they import, directly or not, but for those that are not counted."""
    imported = list(dict.fromkeys(modules))
    for module in imported:
        imported += [name for name in _imports(module) if name not in imported and name not in NOT_COUNTED]
    return sorted(imported)


@cache
def _imports(module: str) -> list[str]:
    """The modules of `mrl` that a module imports. A name that a package hands on stands for the package's __init__."""
    names = []
    for node in ast.walk(ast.parse(_source(module))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            names += [name if _path(name.removeprefix("mrl.")).is_file() else str(node.module) for name in inside]
    names = [name.removeprefix("mrl.") for name in dict.fromkeys(names) if name.startswith("mrl.")]
    return [name for name in names if _path(name).is_file()]


@cache
def _source_meaning(module: str) -> str:
    return _meaning(_source(module))


def _source(module: str) -> str:
    return _path(module).read_text(encoding="utf-8")


def _path(module: str) -> Path:
    path = Path(mrl.__file__).parent.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@cache
def _meaning(source: str) -> str:
    """A digest of what source text does."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body.pop(0)
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()
