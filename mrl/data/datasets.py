"""Names and paths → Interactions: which files make up a data set, and what is checked before it is handed on.

A name is one of `mrl.data.registry`, and `mrl.data.downloads` finds its files; a path is the user's own data.
"""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import polars as pl

from mrl.data.completejourney import FILES, read_products, read_transactions
from mrl.data.interactions import Interactions, build
from mrl.data.labels import read_atomic_items, read_item_table, read_movies, replay
from mrl.data.parsers import PARQUET, read_adjacency, read_atomic, read_movielens, read_table
from mrl.data.registry import DATASETS
from mrl.data.splits import SplitSettings
from mrl.data.synthetic import planted, planted_interactions
from mrl.errors import ConfigError, DataError

_COLUMNS = {"user_column": "user", "item_column": "item", "rating_column": None, "timestamp_column": None}
TABLES = (".csv", ".tsv", *PARQUET)
LAYOUTS = "train.txt [and test.txt], *.inter [and *.item], u.data, ratings.dat, or *.csv, *.tsv, *.parquet"


def load_dataset(dataset: str | Path, **settings: Any) -> Interactions:
    """Load a data set by its name in the registry, or by the path of a file or folder.

    settings: those of `mrl.data.splits.SplitSettings`; of CSV, TSV and Parquet user_column, item_column, rating_column
    and timestamp_column, as in `mrl.data.parsers.read_table`; of the data set `planted` those of
    `mrl.data.synthetic.planted`.

    Raises ConfigError for settings and unknown names, before any data is read, and DataError for the data.
    """
    names = [field.name for field in fields(SplitSettings)]
    rules = SplitSettings(**{name: value for name, value in settings.items() if name in names})
    columns = {name: value for name, value in settings.items() if name in _COLUMNS and value != _COLUMNS[name]}
    taxonomy = {name: value for name, value in settings.items() if name not in (*names, *_COLUMNS)}
    name, path = dataset_name(dataset), _find_path(dataset)
    if path is None and columns:
        raise ConfigError(f"{next(iter(columns))}: only for tables of your own; dataset={name!r} has no named columns")
    if path is None and name == "planted":
        return _load_planted(rules, taxonomy)
    if taxonomy:
        raise ConfigError(f"{next(iter(taxonomy))}: no such setting for dataset={name!r}; only planted has more")
    files = _find_files(path or _fetch(name))
    if files is None:
        raise DataError(f"{path}: no data that is known here; expected {LAYOUTS}")
    log, labels = files.read(columns)
    notes = [f"not read: {file.name}" for file in files.ignored]
    expected, count = None if path else DATASETS[name].interactions, log["item"].count()
    if expected not in (None, count):
        raise DataError(
            f"{files.train.parent}: {count:,} interactions where {name} has {expected:,}, probably a truncated copy; "
            f"remove the folder and fetch it again, or load a version of your own by its path"
        )
    if path is None:
        notes += DATASETS[name].notes
    if path is None and name == "ml100k":
        labels, note = _paper_labels(log)
        notes += [note] if note else []
    return build(log, name=name, labels=labels, notes=tuple(notes), **asdict(rules))


def dataset_name(dataset: str | Path) -> str:
    """A short name that is safe in a path: the registry's, or that of the file or folder."""
    path = _find_path(dataset)
    if path is None:
        return str(dataset)
    path = path.resolve()
    name = path.stem if path.is_file() else path.name
    if path.is_file() and name in ("train", "test", "ratings", "u"):  # its folder says more
        name = path.parent.name
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-") or "data"


def _find_path(dataset: str | Path) -> Path | None:
    """The path that `dataset` is, or None where it is a name in the registry; a name wins over a file of that name."""
    if not isinstance(dataset, str | Path) or not str(dataset).strip():
        raise ConfigError(f"dataset={dataset!r}: give one of {', '.join(DATASETS)}, or the path of a file or folder")
    if dataset in DATASETS:
        return None
    path = Path(dataset).expanduser()
    if path.exists():
        return path
    if isinstance(dataset, Path) or "/" in dataset or "\\" in dataset or path.suffix:
        raise DataError(f"{dataset}: no such file or folder (looked from {Path.cwd()})")
    close = difflib.get_close_matches(dataset.lower(), DATASETS, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise ConfigError(f"dataset={dataset!r}: {hint}The names are {', '.join(DATASETS)}; a path must exist")


@dataclass(frozen=True)
class _Files:
    """The files of a data set: their kind, the training part (or all there is), the test part, the item labels."""

    kind: str
    train: Path
    test: Path | None = None
    items: Path | None = None
    ignored: tuple[Path, ...] = ()

    def read(self, columns: dict[str, str]) -> tuple[pl.DataFrame, pl.DataFrame | None]:
        """The log, with a column `part` where there is a test part, and the labels. columns: for tables only."""
        if columns and self.kind != "table":
            raise ConfigError(f"{next(iter(columns))}: {self.train} has no named columns; leave it out")
        read = {"adjacency": read_adjacency, "atomic": read_atomic, "movielens": read_movielens, "table": read_table}
        if self.kind == "completejourney":
            return read_transactions(self.train), read_products(self.items)
        log = read[self.kind](self.train, **columns)
        if self.test:
            test = read[self.kind](self.test, **columns).with_columns(part=pl.lit("test"))
            log = pl.concat([log.with_columns(part=pl.lit("train")), test], how="diagonal_relaxed")
        if self.items is None:
            return log, None
        if self.kind == "table":
            return log, read_item_table(self.items, columns.get("item_column", "item"))
        return log, read_atomic_items(self.items) if self.kind == "atomic" else read_movies(self.items)


def _find_files(path: Path) -> _Files | None:
    """Which files of a folder, or beside a file, make up a data set; None where nothing is known."""
    if path.is_file():
        return _from_file(path)
    files = sorted(file for file in path.iterdir() if file.is_file())
    if path / "train.txt" in files:
        return _train_and_test("adjacency", [file for file in files if file.stem in ("train", "test", "valid", "val")])
    if atomic := [file for file in files if file.suffix == ".inter"]:
        return _train_and_test("atomic", atomic, items=[file for file in files if file.suffix == ".item"])
    for name in ("u.data", "ratings.dat"):
        if path / name in files:
            return _from_file(path / name)
    if all(path / name in files for name in FILES):
        return _Files("completejourney", path / FILES[0], items=path / FILES[1])
    tables = [file for file in files if file.suffix.lower() in TABLES]
    items = [file for file in tables if file.stem.lower() == "items"]
    return _train_and_test("table", [file for file in tables if file not in items], items) if tables else None


def _from_file(path: Path) -> _Files:
    """The data set that a single file is, with the item labels beside it."""
    suffix = path.suffix.lower()
    if suffix in TABLES:
        return _Files("table", path)
    labels = {".inter": path.with_suffix(".item").name, ".data": "u.item", ".dat": "movies.dat"}
    if suffix not in labels:
        return _Files("adjacency", path)
    items = path.with_name(labels[suffix])
    return _Files("atomic" if suffix == ".inter" else "movielens", path, items=items if items.is_file() else None)


def _train_and_test(kind: str, files: list[Path], items: Sequence[Path] = ()) -> _Files:
    """A train file and a test file by their names (`train.csv`, `mine.test.inter`), else the only file there is."""
    parts = {part: [file for file in files if re.split(r"[._-]", file.stem)[-1] == part] for part in ("train", "test")}
    train, test = parts["train"] or files, parts["test"] if parts["train"] else []
    if len(train) != 1 or len(test) > 1 or len(items) > 1:
        names = ", ".join(file.name for file in (*files, *items))
        raise DataError(f"{(*files, *items)[0].parent}: which file? There is {names}; give the path of one of them")
    ignored = tuple(file for file in files if file not in (*train, *test))
    return _Files(kind, train[0], *(test or [None]), *(items or [None]), ignored=ignored)


def _fetch(name: str) -> Path:
    from mrl.data.downloads import fetch  # not before it is needed: what speaks to the web takes long to import

    return fetch(name)


def _paper_labels(log: pl.DataFrame) -> tuple[pl.DataFrame | None, str | None]:
    """Titles, years and genres for the paper's ml100k by way of ml-100k, or a note that says why there are none."""
    try:
        files = _find_files(_fetch("ml-100k"))
        ratings, labels = files.read({}) if files else (None, None)
    except DataError as error:
        return None, f"no item labels: {error}"
    if labels is None:
        return None, "no item labels: the ml-100k on this machine has none"
    joined = replay(log, ratings, labels)
    return joined, None if joined is not None else "no item labels: this is not the ml-100k that ml100k comes from"


def _load_planted(rules: SplitSettings, taxonomy: dict[str, object]) -> Interactions:
    accepted = list(inspect.signature(planted).parameters)
    for setting in taxonomy:
        if setting not in accepted:
            close = difflib.get_close_matches(setting, accepted, n=1)
            hint = f"did you mean {close[0]}? " if close else ""
            raise ConfigError(f"{setting}: no such setting of planted; {hint}It has {', '.join(accepted)}")
    if rules.split not in ("auto", "random"):
        raise ConfigError(f"split={rules.split!r}: planted has no times and no parts; use split='random'")
    if rules.min_rating is not None:
        raise ConfigError(f"min_rating={rules.min_rating}: planted has no ratings; leave min_rating out")
    return planted_interactions(test_fraction=rules.test_fraction, core=rules.core, seed=rules.seed, **taxonomy)
