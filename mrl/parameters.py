"""Notebook parameters, checked: unknown names and values of the wrong type fail at once, in one line.

Papermill only warns of a name that the notebook does not know, and passes lists, truth values and small numbers as
text (`-p widths "[4, 8]"`, `-p nested_negatives false`, `-y "{learning_rate: 1e-3}"`). The cell after the parameters
calls `read` for the values and `as_config` for the settings:

    config = as_config(TrainConfig, read(globals(), TrainConfig.__dataclass_fields__))
"""

from __future__ import annotations

import ast
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from typing import Any, TypeVar, get_type_hints

from pydantic import TypeAdapter, ValidationError

from mrl.errors import ConfigError, MRLError

Model = TypeVar("Model")

# Python's and YAML's spellings of what JSON writes otherwise.
_WORDS = {"True": "true", "False": "false", "None": "null", "~": "null"}
# What pydantic's error types mean to someone who types a value on a command line.
_EXPECTED = {
    "bool_type": "true or false",
    "int_type": "a whole number",
    "float_type": "a number",
    "string_type": "text (papermill makes numbers of digits; -r instead of -p keeps them text)",
    "list_type": "a list such as [4, 8]",
    "tuple_type": "a list such as [4, 8]",
    "dict_type": "a mapping such as {a: 1}",
    "none_required": "null",
    "finite_number": "a finite number",
}


def injected(namespace: Mapping[str, Any]) -> dict[str, Any]:
    """What papermill passed: the names that its injected cell assigns, with their values.

    namespace: the notebook's `globals()`; its `In` is IPython's history of executed cells. Where several injected cells
    were run in one session (edited and run again in JupyterLab), the last one counts. Empty outside IPython.
    """
    cells = [cell for cell in namespace.get("In", ()) if cell.startswith("# Parameters\n")]
    names = _assigned(cells[-1]) if cells else []
    return {name: namespace.get(name) for name in names if not name.startswith("PAPERMILL_")}


def read(namespace: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """The values of the notebook's parameters, name by name; ConfigError for one that is not among `names`.

    namespace: the notebook's `globals()`. names: every parameter there is. Looked at are papermill's injected cell and
    the parameters cell itself (the last cell that only assigns literals, to most of `names`), so a name
    misspelt in JupyterLab is refused too. Parameters that the notebook does not assign are left out.
    """
    names = list(names)
    unknown = [name for name in (*injected(namespace), *_parameters_cell(namespace, names)) if name not in names]
    if unknown:
        near = get_close_matches(unknown[0], names, n=1) or _same_initials(unknown[0], names)
        remedy = f"did you mean {near[0]!r}?" if near else f"the parameters are {', '.join(names)}"
        raise ConfigError(f"unknown parameter {unknown[0]!r}; {remedy}")
    return {name: namespace[name] for name in names if name in namespace}


def as_config(model: Callable[..., Model], values: Mapping[str, Any]) -> Model:
    """Build a pydantic dataclass of settings from parameter values, strictly.

    Text is taken as it is where the field takes text, and read as JSON elsewhere; nothing else is converted, except
    whole numbers to floats: 2.5 or true is no whole number, 1 is not true. nan and inf are refused everywhere.
    Raises ConfigError: one line with every parameter at fault, its value, and what was expected.
    """
    hints = get_type_hints(model, include_extras=True)
    checked, faults = {}, []
    for name, value in values.items():
        if name not in hints:
            raise ConfigError(f"unknown parameter {name!r}; the parameters are {', '.join(hints)}")
        try:
            checked[name] = _strictly(hints[name], value)
        except ValidationError as error:
            faults.append(_fault(name, value, _first(error)))
        except ValueError as error:
            faults.append(f"{name}={_shown(value)}: {error}")
    if faults:
        raise ConfigError("; ".join(faults))
    try:
        return model(**checked)
    except ValidationError as error:
        raise ConfigError(one_line(error, values)) from None


def one_line(error: ValidationError, values: Mapping[str, Any] | None = None) -> str:
    """Every fault of a pydantic error in one line, first fault first; `values` shows settings as they were given."""
    faults: dict[str, str] = {}  # one a setting: a union reports each of its members
    for fault in error.errors():
        name = str(fault["loc"][0]) if fault["loc"] else ""
        faults.setdefault(name, _fault(name, (values or {}).get(name, fault["input"]), fault))
    return "; ".join(faults.values())


def _assigned(source: str) -> list[str]:
    """The names that a cell assigns at its top level, in order; none where it is not plain Python."""
    try:
        statements = ast.parse(source).body
    except SyntaxError:
        return []
    targets: list[ast.expr] = []
    for statement in statements:
        if isinstance(statement, ast.Assign):
            targets += statement.targets
        elif isinstance(statement, ast.AnnAssign):
            targets.append(statement.target)
    return [ast.unparse(target) for target in targets]


def _parameters_cell(namespace: Mapping[str, Any], names: list[str]) -> list[str]:
    """The names that the parameters cell assigns; none where no executed cell looks like it."""
    for cell in reversed(list(namespace.get("In", ()))):
        assigned = _assigned(cell)
        # Most of the names: a later cell that tries another seed is not the parameters cell.
        if 2 * len(set(assigned) & set(names)) > len(names) and _only_literals(cell):
            return assigned
    return []


def _only_literals(source: str) -> bool:
    """Whether a cell does nothing but assign literals."""
    try:
        for statement in ast.parse(source).body:
            ast.literal_eval(statement.value if isinstance(statement, ast.Assign | ast.AnnAssign) else statement)
    except (ValueError, TypeError):
        return False
    return True


def _same_initials(name: str, names: list[str]) -> list[str]:
    """`lr` and `lrr` mean `learning_rate`: the names whose initials the text begins with."""
    initials = {known: "".join(word[0] for word in known.split("_")) for known in names}
    return [known for known, short in initials.items() if len(short) > 1 and name.startswith(short)]


def _strictly(hint: Any, value: Any) -> Any:
    """The value as the field's type, by JSON's strict rules: lists become tuples, whole numbers floats, no more."""
    adapter = TypeAdapter(hint)
    if not isinstance(value, str):
        _check_finite(value)
        return adapter.validate_json(_json(value), strict=True)
    try:
        return adapter.validate_json(json.dumps(value), strict=True)
    except ValidationError as as_text:
        parsed = _parse(value)
        if isinstance(parsed, str):
            raise as_text from None
    _check_finite(parsed)
    return adapter.validate_json(json.dumps(parsed), strict=True)


def _parse(text: str) -> Any:
    """Text as JSON (or as a number: `.5`, `nan`), and unchanged where it is neither."""
    text = text.strip()
    try:
        return json.loads(_WORDS.get(text, text))
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        return text


def _check_finite(value: Any) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("must be a finite number")
    if isinstance(value, list | tuple | dict):
        for entry in value.values() if isinstance(value, dict) else value:
            _check_finite(entry)


def _json(value: Any) -> str:
    try:
        return json.dumps(os.fspath(value) if isinstance(value, os.PathLike) else value)
    except (TypeError, ValueError):
        raise ValueError("must be text, a number, true, false, null or a list of them") from None


def _fault(name: str, value: Any, fault: Mapping[str, Any]) -> str:
    cause = fault.get("ctx", {}).get("error")
    if isinstance(cause, MRLError):
        return str(cause)  # names its setting already
    if fault["type"] == "missing":
        return f"{name}: must be given"
    if fault["type"] in _EXPECTED:
        wording = f"must be {_EXPECTED[fault['type']]}"
    else:
        wording = fault["msg"].removeprefix("Value error, ").replace("Input should be", "must be").replace("\n", " ")
    return f"{name}={_shown(value)}: {wording}" if name else wording


def _first(error: ValidationError) -> Mapping[str, Any]:
    """The first fault; of an optional setting the one that is not about null."""
    faults = error.errors()
    return next((fault for fault in faults if fault["type"] != "none_required"), faults[0])


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
