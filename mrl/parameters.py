"""Notebook parameters, checked: unknown names and values of the wrong type fail at once, in one line.

Papermill only warns of a name that the notebook does not know, and passes lists, truth values and small numbers as
text (`-p widths "[4, 8]"`, `-p nested_negatives false`, `-y "{learning_rate: 1e-3}"`). The cell after the parameters
makes settings of them:

    config = read_config(TrainConfig, globals())

A class of settings is made by `settings`. A field of another such class is a section: a dict, checked as strictly.
"""

from __future__ import annotations

import ast
import json
import math
import os
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from functools import cache, wraps
from typing import Annotated, Any, TypeVar, dataclass_transform, get_type_hints

from pydantic import AfterValidator, ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from mrl.errors import ConfigError, MRLError

Model = TypeVar("Model")

# A file, a folder, or for data the name of a set: text or a Path, `~` is the home.
PathText = Annotated[str, AfterValidator(lambda text: os.path.expanduser(text))]

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


@dataclass_transform(frozen_default=True, kw_only_default=True)
def settings(cls: type[Model]) -> type[Model]:
    """Decorator: a frozen dataclass of settings, given by keyword and checked by pydantic.

    Whatever is wrong raises ConfigError: one line with every setting at fault, its value, and what was expected.
    """
    made = dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))(cls)
    checked = made.__init__

    @wraps(checked)
    def init(self: Model, **given: Any) -> None:
        values, faults = _checked(type(self), given)
        if faults:
            raise ConfigError("; ".join(faults))
        try:
            checked(self, **values)
        except ValidationError as error:
            raise ConfigError(one_line(error, type(self), given)) from None

    made.__init__ = init
    return made


def read_config(model: type[Model], namespace: Mapping[str, Any]) -> Model:
    """The settings that a notebook's parameters make; ConfigError for an unknown name or an impossible value.

    namespace: the notebook's `globals()`.
    """
    return as_config(model, read(namespace, model))


def injected(namespace: Mapping[str, Any]) -> dict[str, Any]:
    """What papermill passed: the names that its injected cell assigns, with their values.

    namespace: the notebook's `globals()`; its `In` is IPython's history of executed cells. Where several injected cells
    were run in one session (edited and run again in JupyterLab), the last one counts. Empty outside IPython.
    """
    cells = [cell for cell in namespace.get("In", ()) if cell.startswith("# Parameters\n")]
    names = _assigned(cells[-1]) if cells else []
    return {name: namespace.get(name) for name in names if not name.startswith("PAPERMILL_")}


def read(namespace: Mapping[str, Any], model: type) -> dict[str, Any]:
    """The values of the notebook's parameters, name by name; ConfigError for one that is no field of `model`.

    Looked at are papermill's injected cell and the parameters cell itself (the last cell that only assigns literals, to
    most of the names), so a name misspelt in JupyterLab is refused too. Parameters that the notebook does not assign
    are left out.
    """
    names = [field.name for field in fields(model)]
    for name in (*injected(namespace), *_parameters_cell(namespace, names)):
        if name not in names:
            raise ConfigError(_unknown(name, model))
    return {name: namespace[name] for name in names if name in namespace}


def as_config(model: type[Model], values: Mapping[str, Any]) -> Model:
    """Build a dataclass of settings from parameter values, strictly.

    Text is taken as it is where the field takes text, and read as JSON elsewhere; nothing else is converted, except
    whole numbers to floats: 2.5 or true is no whole number, 1 is not true. nan and inf are refused everywhere.
    Raises ConfigError: one line with every parameter at fault, its value, and what was expected.
    """
    checked, faults = _checked(model, values)
    if faults:
        raise ConfigError("; ".join(faults))
    return model(**checked)


def _checked(model: type, values: Mapping[str, Any], section: str = "") -> tuple[dict[str, Any], list[str]]:
    """The values as the types of the model's fields, by name, and what is wrong with the others."""
    hints, adapters = _types(model)
    checked, faults = {}, []
    for name, value in values.items():
        if name not in hints:
            faults.append(_unknown(name, model, section))
            continue
        full = f"{section}.{name}" if section else name
        try:
            if is_dataclass(hints[name]):
                checked[name], wrong = _checked(hints[name], _mapping(value), full)
                faults += wrong
            else:
                checked[name] = _strictly(adapters[name], value)
        except ValidationError as error:
            faults.append(_fault(full, value, _first(error)))
        except ValueError as error:
            faults.append(f"{full}={_shown(value)}: {error}")
    return checked, faults


@cache
def _types(model: type) -> tuple[dict[str, Any], dict[str, TypeAdapter]]:
    """The type of each field and what checks it; a section has its own."""
    hints = get_type_hints(model, include_extras=True)
    return hints, {name: TypeAdapter(hint) for name, hint in hints.items() if not is_dataclass(hint)}


def _mapping(value: Any) -> Mapping[str, Any]:
    """A section as a dict: given as one, as JSON text, or as the dataclass itself."""
    if is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    parsed = _parse(value) if isinstance(value, str) else value
    if not isinstance(parsed, Mapping) or not all(isinstance(name, str) for name in parsed):
        raise ValueError('must be a mapping such as {"name": 1}')
    return parsed


def _unknown(name: str, model: type, section: str = "") -> str:
    """That there is no such setting, and which one may be meant."""
    names, places = [field.name for field in fields(model)], sections_of(model)
    near = get_close_matches(name, names, n=1) or _same_initials(name, names)
    if name not in places and near:
        remedy = f"did you mean {near[0]!r}?"
    elif inside := [name] if name in places else get_close_matches(name, list(places), n=1):
        remedy = f"did you mean {places[inside[0]]}={{{inside[0]!r}: …}}?"
    else:
        remedy = f"the {'settings' if section else 'parameters'} are {', '.join(names)}"
    return f"{section}: unknown setting {name!r}; {remedy}" if section else f"unknown parameter {name!r}; {remedy}"


def sections_of(model: type) -> dict[str, str]:
    """In which section each setting stands, by name; those that are fields of the model itself are left out."""
    kinds = {name: kind for name, kind in get_type_hints(model).items() if is_dataclass(kind)}
    return {field.name: section for section, kind in kinds.items() for field in fields(kind)}


def one_line(error: ValidationError, model: type, values: Mapping[str, Any]) -> str:
    """Every fault of a pydantic error in one line, first fault first. values: the settings as they were given."""
    faults: dict[str, str] = {}  # one a setting: a union reports each of its members
    for fault in error.errors():
        kind, given, path = model, values, []
        for name in fault["loc"]:
            path.append(str(name))
            given = given.get(name, fault["input"]) if isinstance(given, Mapping) else fault["input"]
            if not is_dataclass(hint := get_type_hints(kind).get(name)):
                break
            kind = hint
        full, is_unknown = ".".join(path), fault["type"] == "unexpected_keyword_argument"
        words = _unknown(path[-1], kind, ".".join(path[:-1])) if is_unknown else _fault(full, given, fault)
        faults.setdefault(full, words)
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
    # `a, b = 1, 2` assigns two names.
    each = [target.elts if isinstance(target, ast.Tuple | ast.List) else [target] for target in targets]
    return [ast.unparse(name) for names in each for name in names]


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


def _strictly(adapter: TypeAdapter, value: Any) -> Any:
    """The value as the field's type, by JSON's strict rules: lists become tuples, whole numbers floats, no more."""
    value = _plain(value)
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


def _plain(value: Any) -> Any:
    """What Python programs hold as JSON has it: paths as text; ranges, arrays and numbers of NumPy and torch."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    listed = getattr(value, "tolist", None) or getattr(value, "to_list", None)
    if hasattr(value, "dtype") and listed:  # of NumPy, torch, pandas or polars
        value = listed()
    if isinstance(value, Mapping):
        return {name: _plain(entry) for name, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, list | tuple | range) else value


def _json(value: Any) -> str:
    try:
        return json.dumps(value)
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
