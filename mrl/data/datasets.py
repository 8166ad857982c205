"""Names and paths → Interactions: which files make up a data set, and what is checked before it is handed on.

A name is one of `mrl.data.registry`, which also finds or downloads its files; a path is the user's own data.
"""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from mrl.errors import ConfigError, DataError
from mrl.data.interactions import Interactions, build
from mrl.data.labels import read_atomic_items, read_item_table, read_movies, replay
from mrl.data.parsers import read_adjacency, read_atomic, read_movielens, read_table
from mrl.data.registry import DATASETS, fetch
from mrl.data.splits import check_split_settings
from mrl.data.synthetic import planted_interactions

_COLUMNS = {"user_column": "user", "item_column": "item", "rating_column": None, "timestamp_column": None}
TABLES = (".csv", ".tsv", ".parquet", ".pq")
KNOWN = "train.txt [and test.txt], *.inter [and *.item], u.data, ratings.dat, or *.csv, *.tsv, *.parquet"


def load(
    dataset: str | Path,
    *,
    split: str = "auto",
    test_fraction: float = 0.2,
    min_rating: float | None = None,
    core: int = 1,
    seed: int = 0,
    overlap: str = "error",
    user_column: str = "user",
    item_column: str = "item",
    rating_column: str | None = None,
    timestamp_column: str | None = None,
    **planted: object,
) -> Interactions:
    """Load a data set by its name in the registry, or by the path of a file or folder.

    split, test_fraction, min_rating, core, seed, overlap: as in `mrl.data.interactions.build`.
    user_column, item_column, rating_column, timestamp_column: of CSV, TSV and Parquet; as in `mrl.data.parsers.read_table`.
    planted: settings of `mrl.data.synthetic.planted_interactions`, for the data set `planted` only.

    Raises ConfigError for settings and unknown names, before any data is read, and DataError for the data.
    """
    settings = {
        "split": split, "test_fraction": test_fraction, "min_rating": min_rating, "core": core, "seed": seed,
        "overlap": overlap,
    }  # fmt: skip
    check_split_settings(**settings)
    columns = {
        "user_column": user_column, "item_column": item_column, "rating_column": rating_column,
        "timestamp_column": timestamp_column,
    }  # fmt: skip
    columns = {setting: column for setting, column in columns.items() if column != _COLUMNS[setting]}
    name, path = dataset_name(dataset), _own_path(dataset)
    if path is None and columns:
        raise ConfigError(f"{next(iter(columns))}: only for tables of your own; dataset={name!r} has no named columns")
    if path is None and name == "planted":
        return _planted(settings, planted)
    if planted:
        raise ConfigError(f"{next(iter(planted))}: no such setting for dataset={str(dataset)!r}; only planted has more")
    files = _layout(path or fetch(name))
    if files is None:
        raise DataError(f"{path}: no data that is known here; expected {KNOWN}")
    log, labels = files.read(columns)
    notes = [f"not read: {file.name}" for file in files.ignored]
    if path is None:
        _check_whole(name, files, log)
    if path is None and name == "ml100k":
        labels, note = _paper_labels(log)
        notes += [note] if note else []
    return build(log, name=name, labels=labels, notes=tuple(notes), **settings)


def dataset_name(dataset: str | Path) -> str:
    """A short name that is safe in a path: the registry's, or that of the file or folder."""
    path = _own_path(dataset)
    if path is None:
        return str(dataset)
    path = path.resolve()
    name = path.stem if path.is_file() else path.name
    if path.is_file() and name in ("train", "test", "ratings", "u"):  # its folder says more
        name = path.parent.name
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-") or "data"


def _own_path(dataset: str | Path) -> Path | None:
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
    meant = f"did you mean {close[0]!r}? " if close else ""
    raise ConfigError(f"dataset={dataset!r}: {meant}The names are {', '.join(DATASETS)}; a path must exist")


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
        log = read[self.kind](self.train, **columns)
        if self.test:
            test = read[self.kind](self.test, **columns).with_columns(part=pl.lit("test"))
            log = pl.concat([log.with_columns(part=pl.lit("train")), test], how="diagonal_relaxed")
        if self.items is None:
            return log, None
        if self.kind == "table":
            return log, read_item_table(self.items, columns.get("item_column", "item"))
        return log, read_atomic_items(self.items) if self.kind == "atomic" else read_movies(self.items)


def _layout(path: Path) -> _Files | None:
    """Which files of a folder, or beside a file, make up a data set; None where nothing is known."""
    if path.is_file():
        return _single(path)
    there = sorted(file for file in path.iterdir() if file.is_file())
    if path / "train.txt" in there:
        return _parts("adjacency", [file for file in there if file.stem in ("train", "test", "valid", "val")])
    if files := [file for file in there if file.suffix == ".inter"]:
        return _parts("atomic", files, items=[file for file in there if file.suffix == ".item"])
    for name in ("u.data", "ratings.dat"):
        if path / name in there:
            return _single(path / name)
    files = [file for file in there if file.suffix.lower() in TABLES]
    items = [file for file in files if file.stem.lower() == "items"]
    return _parts("table", [file for file in files if file not in items], items) if files else None


def _single(path: Path) -> _Files:
    suffix = path.suffix.lower()
    if suffix in TABLES:
        return _Files("table", path)
    if suffix == ".inter":
        return _Files("atomic", path, items=_if_there(path.with_suffix(".item")))
    if suffix in (".data", ".dat"):
        items = path.with_name("u.item" if suffix == ".data" else "movies.dat")
        return _Files("movielens", path, items=_if_there(items))
    return _Files("adjacency", path)


def _parts(kind: str, files: list[Path], items: Sequence[Path] = ()) -> _Files:
    """A train file and a test file by their names (`train.csv`, `mine.test.inter`), else the only file there is."""
    parts = {part: [file for file in files if re.split(r"[._-]", file.stem)[-1] == part] for part in ("train", "test")}
    train, test = parts["train"] or files, parts["test"] if parts["train"] else []
    if len(train) != 1 or len(test) > 1 or len(items) > 1:
        there = ", ".join(file.name for file in (*files, *items))
        raise DataError(f"{(*files, *items)[0].parent}: which file? There is {there}; give the path of one of them")
    ignored = tuple(file for file in files if file not in (*train, *test))
    return _Files(kind, train[0], *(test or [None]), *(items or [None]), ignored=ignored)


def _if_there(path: Path) -> Path | None:
    return path if path.is_file() else None


def _check_whole(name: str, files: _Files, log: pl.DataFrame) -> None:
    """Raise DataError where a registered data set has another number of interactions than it should."""
    wanted, found = DATASETS[name].interactions, log["item"].count()
    if wanted not in (None, found):
        raise DataError(
            f"{files.train.parent}: {found:,} interactions where {name} has {wanted:,}, probably a truncated copy; "
            f"remove the folder and fetch it again, or load a version of your own by its path"
        )


def _paper_labels(log: pl.DataFrame) -> tuple[pl.DataFrame | None, str | None]:
    """Titles, years and genres for the paper's ml100k by way of ml-100k, or a note that says why there are none."""
    try:
        files = _layout(fetch("ml-100k"))
        ratings, labels = files.read({}) if files else (None, None)
    except DataError as error:
        return None, f"no item labels: {error}"
    if labels is None:
        return None, "no item labels: the ml-100k on this machine has none"
    joined = replay(log, ratings, labels)
    return joined, None if joined is not None else "no item labels: this is not the ml-100k that ml100k comes from"


def _planted(settings: dict[str, object], planted: dict[str, object]) -> Interactions:
    accepted = [setting for setting in inspect.signature(planted_interactions).parameters if setting != "name"]
    for setting in planted:
        if setting not in accepted:
            close = difflib.get_close_matches(setting, accepted, n=1)
            meant = f"did you mean {close[0]}? " if close else ""
            raise ConfigError(f"{setting}: no such setting of planted; {meant}It has {', '.join(accepted)}")
    if settings["split"] not in ("auto", "random"):
        raise ConfigError(f"split={settings['split']!r}: planted has no times and no parts; use split='random'")
    if settings["min_rating"] is not None:
        raise ConfigError(f"min_rating={settings['min_rating']}: planted has no ratings; leave min_rating out")
    return planted_interactions(**{key: value for key, value in settings.items() if key in accepted}, **planted)
