"""Names and paths → Interactions: which files make up a data set, and what is checked before it is handed on.

A name is one of `mrl.data.registry`, and `mrl.data.downloads` finds its files; a path is the user's own data.
"""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from mrl.data.interactions import Interactions, build
from mrl.data.registry import DATASETS
from mrl.data.splits import TIMED_SPLITS, SplitSettings
from mrl.data.synthetic import planted, planted_interactions
from mrl.errors import ConfigError, DataError
from mrl.files import (
    COMPLETEJOURNEY,
    MOVIELENS,
    Format,
    check_given,
    content_of,
    find_parts,
    read_atomic_items,
    read_item_table,
    read_log,
    read_movies,
    read_products,
    replay,
    sniff,
    sniff_parts,
    stem_of,
    suffix_of,
)  # fmt: skip

_COLUMNS = ("user_column", "item_column", "rating_column", "timestamp_column")
TABLES = (".csv", ".tsv", ".parquet", ".pq")
LAYOUTS = "train.txt [and test.txt], *.inter [and *.item], u.data, ratings.dat, *.csv, *.tsv, *.parquet or their parts"


def load_dataset(dataset: str | Path, **settings: Any) -> Interactions:
    """Load a data set by its name in the registry, or by the path of a file or folder.

    settings: those of `mrl.data.splits.SplitSettings`; user_column, item_column, rating_column and timestamp_column, as
    in `mrl.files.parsers.read_log`; of the data set `planted` those of `mrl.data.synthetic.planted`.

    Raises ConfigError for settings and unknown names, before any data is read, and DataError for the data. Of data of
    one's own the notes say first what was found in its file.
    """
    names = [field.name for field in fields(SplitSettings)]
    rules = SplitSettings(**{name: value for name, value in settings.items() if name in names})
    columns = {name: value for name, value in settings.items() if name in _COLUMNS and value is not None}
    check_given(columns)
    taxonomy = {name: value for name, value in settings.items() if name not in (*names, *_COLUMNS)}
    name, path = dataset_name(dataset), find_path(dataset)
    if path is None and columns:
        raise ConfigError(f"{next(iter(columns))}: only for files of your own; dataset={name!r} has its columns")
    if path is None and name == "planted":
        return _load_planted(rules, taxonomy)
    if taxonomy:
        raise ConfigError(f"{next(iter(taxonomy))}: no such setting for dataset={name!r}; only planted has more")
    files = find_files(path or _fetch(name))
    if files is None:
        raise DataError(f"{path}: no data that is known here; expected {LAYOUTS}")
    needed = [*(["rating"] if rules.min_rating is not None else []), *(["timestamp"] * (rules.split in TIMED_SPLITS))]
    notes: list[str] = []
    log, labels = files.read(columns, needed, notes)
    notes = list(dict.fromkeys(notes)) if path else []
    notes += [f"not read: {file.name}" for file in files.ignored]
    expected, count = None if path else DATASETS[name].interactions, log["item"].count()
    if expected not in (None, count):
        raise DataError(
            f"{files.train.path.parent}: {count:,} interactions where {name} has {expected:,}, probably a truncated "
            f"copy; remove the folder and fetch it again, or load a version of your own by its path"
        )
    if path is None:
        notes += DATASETS[name].notes
    if path is None and name == "ml100k":
        labels, note = _paper_labels(log)
        notes += [note] if note else []
    return build(log, name=name, labels=labels, notes=tuple(notes), **asdict(rules))


def dataset_name(dataset: str | Path) -> str:
    """A short name that is safe in a path: the registry's, or that of the file or folder."""
    path = find_path(dataset)
    if path is None:
        return str(dataset)
    path = path.resolve()
    name = stem_of(path) if path.is_file() else path.name
    if path.is_file() and name in ("train", "test", "ratings", "u"):  # its folder says more
        name = path.parent.name
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-") or "data"


def resolve_dataset(dataset: str | Path) -> str:
    """A name as it is; a path absolute and without links, so that it says from any folder what it was.

    What is neither a name nor there is returned as it is.
    """
    path = Path(dataset).expanduser()
    return str(dataset) if dataset in DATASETS or not path.exists() else str(path.resolve())


def dataset_stamp(dataset: str | Path) -> tuple[tuple[str, int, int], ...]:
    """Name, time of change (ns) and size of the files at a path, to tell whether they changed; empty for a name."""
    path = find_path(dataset)
    if path is None:
        return ()
    files = [path] if path.is_file() else sorted(file for file in path.iterdir() if file.is_file())
    return tuple((file.name, (stat := file.stat()).st_mtime_ns, stat.st_size) for file in files)


def find_path(dataset: str | Path) -> Path | None:
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


class _Source(NamedTuple):
    """A file, or a folder with the parts of one table."""

    path: Path
    parts: tuple[Path, ...] = ()

    def sniff(self, given: dict[str, str]) -> Format:
        return sniff_parts(self.path, self.parts, given) if self.parts else sniff(self.path, given)


@dataclass(frozen=True)
class _Files:
    """The files of a data set: the training part (or all there is), the test part, the item labels."""

    train: _Source
    test: _Source | None = None
    items: Path | None = None
    ignored: tuple[Path, ...] = ()

    def read(
        self, columns: dict[str, str], needed: Sequence[str], notes: list[str]
    ) -> tuple[pl.DataFrame, pl.DataFrame | None]:
        """The log, with a column `part` where there is a test part, and the labels; see `mrl.files.read_log`."""
        given = {name.removesuffix("_column"): value for name, value in columns.items()}
        found = self.train.sniff(given)
        notes.append(f"read {found}")
        options = {**columns, "needed": needed, "notes": notes}
        log = read_log(found, **options)
        if self.test:
            test = read_log(_alike(self.test, found, given), **options)
            log = _both_parts(log, test, self.test.path, is_timed="timestamp" in needed)
        if self.items is None:
            return log, None
        named = {"u.item": read_movies, "movies.dat": read_movies, COMPLETEJOURNEY[1]: read_products}
        if self.items.name in named or self.items.suffix == ".item":
            return log, named.get(self.items.name, read_atomic_items)(self.items)
        return log, read_item_table(self.items, columns.get("item_column"), notes)


def _alike(source: _Source, train: Format, given: dict[str, str]) -> Format:
    """The format of a test part: what the training part settles, it need not settle again."""
    if train.kind in ("table", "atomic", "parquet") or source.parts:
        return source.sniff(given)
    return replace(train, path=source.path, content=content_of(source.path), numbers=None)


def _both_parts(train: pl.DataFrame, test: pl.DataFrame, path: Path, *, is_timed: bool) -> pl.DataFrame:
    """One log with a column `part`; DataError where times count, and are dates in one part and numbers in the other."""
    if not is_timed:
        train, test = (part.drop("timestamp", strict=False) for part in (train, test))
    elif "timestamp" in train.columns and "timestamp" in test.columns:
        kinds = train["timestamp"].dtype, test["timestamp"].dtype
        if kinds[0].is_temporal() != kinds[1].is_temporal():
            raise DataError(f"{path}: timestamps are {kinds[1]}, in the training part {kinds[0]}; write them alike")
    parts = [train.with_columns(part=pl.lit("train")), test.with_columns(part=pl.lit("test"))]
    return pl.concat(parts, how="diagonal_relaxed")


def find_files(path: Path) -> _Files | None:
    """Which files of a folder, or beside a file, make up a data set; None where nothing is known."""
    if path.is_file():
        return _from_file(path)
    there = sorted(file for file in path.iterdir() if file.name[0] not in "._")
    files = [file for file in there if file.is_file()]
    lists = [file for file in files if suffix_of(file) == ".txt" and stem_of(file) in ("train", "test", "valid", "val")]
    if any(stem_of(file) == "train" for file in lists):
        return _train_and_test(lists)
    if atomic := [file for file in files if suffix_of(file) == ".inter"]:
        return _train_and_test(atomic, [file for file in files if file.suffix == ".item"])
    for name in ("u.data", "ratings.dat"):
        if path / name in files:
            return _from_file(path / name)
    if rated := [file for file in files if suffix_of(file) == ".rating"]:
        return _train_and_test(rated)
    if all(path / name in files for name in COMPLETEJOURNEY):
        return _Files(_Source(path / COMPLETEJOURNEY[0]), items=path / COMPLETEJOURNEY[1])
    tables = [file for file in there if suffix_of(file) in TABLES or (file.is_dir() and file.name in ("train", "test"))]
    items = [file for file in tables if stem_of(file).lower() == "items"]
    parts = _find_part_tables(path)
    inside = [part for source in parts.values() for part in source.parts]
    tables = [file for file in tables if file not in (*items, *inside) and (file.is_file() or find_parts(file))]
    tables = [file for file in tables if not inside or file.is_dir() or file.stat().st_size]  # Spark leaves empty ones
    if inside and not tables and len(items) < 2 and (len(parts) == 1 or "train" in parts):
        ignored = [source.path / f"{stem}-…" for stem, source in parts.items() if stem not in ("", "train", "test")]
        train = parts.get("train") or next(iter(parts.values()))
        return _Files(train, parts.get("test"), next(iter(items), None), tuple(ignored))
    return _train_and_test([*tables, *inside], items) if tables or inside else None


def _find_part_tables(folder: Path) -> dict[str, _Source]:
    """The tables whose parts lie in a folder, by what the names of the parts start with."""
    found = {stem: find_parts(folder, stem) for stem in ("", "train", "test", "valid", "validation")}
    return {stem: _Source(folder, parts) for stem, parts in found.items() if parts}


def _from_file(path: Path) -> _Files:
    """The data set that a single file is, with the item labels beside it."""
    if path.suffix.lower() == ".inter":
        beside = [path.with_suffix(".item")]
    elif MOVIELENS.fullmatch(path.name):
        beside = [path.with_name("movies.dat" if path.name == "ratings.dat" else "u.item")]
    else:
        tables = [file for file in sorted(path.parent.iterdir()) if suffix_of(file) in TABLES and file != path]
        beside = [file for file in tables if stem_of(file).lower() == "items"]
        if len(beside) > 1:
            names = " and ".join(file.name for file in beside)
            raise DataError(f"{path.parent}: which item table? There is {names}; leave one of them")
    return _Files(_Source(path), items=next((file for file in beside if file.is_file()), None))


def _train_and_test(files: list[Path], items: Sequence[Path] = ()) -> _Files:
    """A train file and a test file by their names (`train.csv`, `mine.test.inter`), else the only file there is."""
    parts = {
        part: [file for file in files if re.split(r"[._-]", stem_of(file))[-1] == part] for part in ("train", "test")
    }
    train, test = parts["train"] or files, parts["test"] if parts["train"] else []
    if len(train) != 1 or len(test) > 1 or len(items) > 1:
        names = ", ".join(file.name for file in (*files, *items)[:20])
        raise DataError(f"{(*files, *items)[0].parent}: which file? There is {names}; give the path of one of them")
    ignored = tuple(file for file in files if file not in (*train, *test))
    return _Files(_Source(train[0]), *([_Source(test[0])] if test else [None]), *(items or [None]), ignored=ignored)


def _fetch(name: str) -> Path:
    from mrl.data.downloads import fetch  # not before it is needed: what speaks to the web takes long to import

    return fetch(name)


def _paper_labels(log: pl.DataFrame) -> tuple[pl.DataFrame | None, str | None]:
    """Titles, years and genres for the paper's ml100k by way of ml-100k, or a note that says why there are none."""
    try:
        files = find_files(_fetch("ml-100k"))
        ratings, labels = files.read({}, (), []) if files else (None, None)
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
