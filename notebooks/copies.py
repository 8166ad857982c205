"""What make does about the notebooks beside this file: working copies for JupyterLab, and a word on edited originals.

    python notebooks/copies.py copy lab       working copies into lab/, never over one that the reader changed
    python notebooks/copies.py edits train    on stderr, how notebooks/train.ipynb differs from the committed one

JupyterLab saves by itself, so what is changed there in an original is what `make train` runs from then on. Apart from
the package, whose import takes seconds.
"""

from __future__ import annotations

import ast
import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from textwrap import shorten

NOTEBOOKS = Path(__file__).resolve().parent
RECORD = ".copied.json"  # in the folder of copies: the digest of each as it was made


def copy_all(folder: Path) -> str:
    """Copy every notebook that the folder lacks, or has as it was copied from an earlier one; what was done, in words.

    A copy with other cells or outputs than it was made with is the reader's, and is kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    record_path = folder / RECORD
    try:
        record = json.loads(record_path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        record = {}  # what is not like its original is then the reader's
    copied, kept, same = [], [], 0
    for original in sorted(NOTEBOOKS.glob("*.ipynb")):
        copy, name, wanted = folder / original.name, original.stem, digest(original)
        now = digest(copy) if copy.exists() else None
        if now is not None and now not in (wanted, record.get(name)):
            kept.append(name if record.get(name) == wanted else f"{name} (the original has changed since)")
            continue
        if now == wanted:
            same += 1
        else:
            shutil.copyfile(original, copy)
            copied.append(name)
        record[name] = wanted
    record_path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    parts = [f"copied {', '.join(copied)}"] if copied else []
    parts += [f"{same} as in notebooks/"] if same else []
    parts += [f"kept as you left them: {', '.join(kept)}"] if kept else []
    return f"Working copies in {folder.name}/: {'; '.join(parts)}. For a fresh copy, delete it and run make lab again."


def digest(path: Path) -> str:
    """SHA-256 of a notebook's cells and outputs; of all bytes where it is none."""
    contents = path.read_bytes()
    try:
        kept = [(cell["cell_type"], source_of(cell), cell.get("outputs", [])) for cell in json.loads(contents)["cells"]]
    except (ValueError, KeyError, TypeError):
        return hashlib.sha256(contents).hexdigest()
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def describe_edits(path: Path) -> str:
    """How a notebook differs from the committed one, in one line; empty where it does not, or nothing is committed.

    Only what runs counts: parameters by value, other code cells by their source.
    """
    try:
        committed = subprocess.run(["git", "show", f"HEAD:./{path.name}"], cwd=path.parent, capture_output=True)
        if committed.returncode:
            return ""  # no git checkout, or not in it
        before, after = code_of(json.loads(committed.stdout)), code_of(json.loads(path.read_bytes()))
    except (OSError, ValueError, KeyError, TypeError):
        return ""  # no git; or no notebook, which papermill will say
    (old, old_cells), (new, new_cells) = before, after
    changes = [
        f"{name} = {shorten(new.get(name, 'nothing'), 60)} (committed: {shorten(old.get(name, 'nothing'), 60)})"
        for name in old | new
        if old.get(name) != new.get(name)
    ]
    parts = ([", ".join(changes)] if changes else []) + (["cells were changed"] if old_cells != new_cells else [])
    place = f"{path.parent.name}/{path.name}"
    return f"{place} is not as committed: {'; '.join(parts)}. To undo: git restore {place}" if parts else ""


def code_of(book: dict) -> tuple[dict[str, str], list[str]]:
    """The parameters, each with its value as it is written, and whatever else is code, by cell."""
    parameters, others = {}, []
    for cell in book["cells"]:
        source = source_of(cell).strip()
        if "parameters" in cell.get("metadata", {}).get("tags", ()):
            try:
                statements = ast.parse(source).body
            except SyntaxError:
                statements, others = [], [*others, source]
            for statement in statements:
                if isinstance(statement, ast.AnnAssign) and statement.value is not None:
                    parameters[ast.unparse(statement.target)] = ast.unparse(statement.value)
                elif isinstance(statement, ast.Assign):
                    for target in statement.targets:
                        parameters |= assigned(target, statement.value)
                else:
                    others.append(ast.unparse(statement))
        elif cell["cell_type"] == "code" and source:
            others.append(source)
    return parameters, others


def assigned(target: ast.expr, value: ast.expr) -> dict[str, str]:
    """The names that an assignment gives a value, each with its own: `a, b = 1, 2` has two."""
    if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple) and len(target.elts) == len(value.elts):
        pairs = zip(target.elts, value.elts, strict=True)
        return {name: text for pair in pairs for name, text in assigned(*pair).items()}
    return {ast.unparse(target): ast.unparse(value)}


def source_of(cell: dict) -> str:
    return "".join(cell["source"])  # text, or a list of lines


if __name__ == "__main__":
    command, *arguments = sys.argv[1:]
    if command == "copy":
        print(copy_all(Path(arguments[0])))
    else:
        for name in arguments:
            if line := describe_edits(NOTEBOOKS / f"{name}.ipynb"):
                print(line, file=sys.stderr)
