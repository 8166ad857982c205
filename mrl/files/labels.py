"""What is known of items and users, from the files that come beside the interactions.

Every reader returns a column `item` or `user` (raw ids) and label columns, in the file's order: of items title
(String), year (Int64), genres (List[String]) where there are such.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from mrl.errors import DataError
from mrl.files.columns import TITLES, USUAL, usual
from mrl.files.content import content_of, open_content
from mrl.files.formats import sniff
from mrl.files.lists import MAX_ID
from mrl.files.tables import TextTable
from mrl.files.values import to_ids

# The order of the 19 flags at the end of each line of ml-100k's u.item, from its u.genre.
U_ITEM_GENRES = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy",
    "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip
LABEL_NAMES = {
    "movie_title": "title", "release_year": "year", "class": "genres", "genre": "genres", "categories": "genres",
}  # fmt: skip


def read_movies(path: str | Path) -> pl.DataFrame:
    """Read MovieLens' own `u.item` (19 genre flags) or `movies.dat` (genres by name), both Latin-1."""
    path = Path(path)
    with open_content(content_of(path)) as file:
        text = file.read().decode("latin-1")
    flags = path.suffix == ".item"
    separator, width = ("|", 5 + len(U_ITEM_GENRES)) if flags else ("::", 3)
    rows = []
    for line, movie in enumerate(text.splitlines(), start=1):
        fields = movie.split(separator)
        if not movie.strip():
            continue
        is_id = fields[0].isdecimal() and len(fields[0]) <= len(str(MAX_ID)) and int(fields[0]) <= MAX_ID
        if len(fields) != width or not is_id:
            raise DataError(f"{path}:{line}: {movie[:40]!r} is not `id{separator}title{separator}…` of {width} fields")
        if flags:
            genres = [genre for genre, flag in zip(U_ITEM_GENRES, fields[5:], strict=True) if flag.strip() == "1"]
        else:
            genres = [genre for genre in fields[2].split("|") if genre]
        rows.append((int(fields[0]), fields[1].strip(), genres))
    schema = {"item": pl.Int64, "title": pl.String, "genres": pl.List(pl.String)}
    title, year = pl.col("title"), r"\s*\((\d{4})\)\s*$"  # "Toy Story (1995)": the year goes to its own column
    movies = pl.DataFrame(rows, schema=schema, orient="row")
    movies = movies.with_columns(title.str.replace(year, ""), year=title.str.extract(year).cast(pl.Int64))
    return movies.select("item", "title", "year", "genres")


def read_atomic_items(path: str | Path) -> pl.DataFrame:
    """Read a RecBole `.item` file. Types come from its header; titles are kept as RecBole wrote them.

    `movie_title`, `release_year` and `class` are renamed to title, year and genres; other columns keep their names.
    A `token_seq` is a list of words, except the title; `float_seq` columns (features) are left out.
    """
    path = Path(path)
    table = TextTable(path, content_of(path), separator="\t", quoted=False)
    columns = {}
    for header in table.columns:
        name, _, kind = header.partition(":")
        name = "item" if name == "item_id" else LABEL_NAMES.get(name, name)
        if kind not in ("token", "token_seq", "float", "float_seq"):
            raise DataError(f"{path}:1: column {header!r} is not typed; RecBole headers read `item_id:token`")
        if name == "year":
            columns[name] = pl.col(header).cast(pl.Int64, strict=False)
        elif name == "item" or kind == "token" or name == "title":
            columns[name] = pl.col(header)
        elif kind == "float":
            columns[name] = pl.col(header).cast(pl.Float64, strict=False)
        elif kind == "token_seq":
            words = pl.col(header).fill_null("").str.split(" ")
            columns[name] = words.list.eval(pl.element().filter(pl.element() != ""))
    if "item" not in columns:
        raise DataError(f"{path}:1: no item_id column; its columns are {', '.join(table.columns)}")
    _check_names(path, table.columns)
    labels = table.read(table.columns).select(**columns)
    ids, is_bad = to_ids(labels["item"])  # as those of the log are
    return labels.with_columns(ids.alias("item")).filter(~is_bad)


def read_users(path: str | Path) -> pl.DataFrame:
    """user, age (Int64), gender, occupation of MovieLens-100K, from its `u.user` or RecBole's `.user` file."""
    path = Path(path)
    is_atomic = path.name != "u.user"
    names = ["user_id:token", "age:token", "gender:token", "occupation:token"] if is_atomic else range(4)
    if is_atomic:
        table = TextTable(path, content_of(path), separator="\t", quoted=False)
        if missing := [name for name in names if name not in table.columns]:
            raise DataError(f"{path}:1: no column {', '.join(missing)}; its columns are {', '.join(table.columns)}")
        users = table.read(names)
    else:
        lines = [line.split("|") for line in path.read_text("latin-1").splitlines() if line.strip()]
        if short := [number for number, fields in enumerate(lines, start=1) if len(fields) != 5]:
            raise DataError(f"{path}:{short[0]}: is not `id|age|gender|occupation|zip code`")
        users = pl.DataFrame([fields[:4] for fields in lines], schema=[str(name) for name in names], orient="row")
    ids, is_bad = to_ids(users[users.columns[0]])
    age, gender, occupation = users.columns[1:]
    columns = {"age": pl.col(age).cast(pl.Int64, strict=False), "gender": gender, "occupation": occupation}
    return users.select(ids.alias("user"), **columns).filter(~is_bad)


def by_first_appearance(ids: pl.Series) -> pl.DataFrame:
    """(id, number): ids numbered 0, 1, 2, … in the order in which they first appear."""
    return ids.alias("id").unique(maintain_order=True).to_frame().with_columns(number=pl.int_range(pl.len()))


def replay(paper: pl.DataFrame, ratings: pl.DataFrame, labels: pl.DataFrame) -> pl.DataFrame | None:
    """Labels for the paper's `ml100k` from those of ml-100k.

    The paper numbered users and items by first appearance in the ratings file. paper: its log; ratings: ml-100k's log
    in file order; labels: ml-100k's. Returns labels under the paper's numbers, or None where the numbering does not
    give every user the very same items.
    """
    numbers = {side: by_first_appearance(ratings[side]) for side in ("user", "item")}
    renumbered = [pl.col(side).replace_strict(table["id"], table["number"]) for side, table in numbers.items()]
    renumbered, items = ratings.select(renumbered).unique(), numbers["item"]
    pairs = paper.select("user", "item").drop_nulls().unique()
    if len(pairs) != len(renumbered) or len(pairs.join(renumbered, on=["user", "item"], how="anti")):
        return None
    labels = labels.with_columns(pl.col("item").cast(items["id"].dtype, strict=False))
    joined = labels.join(items, left_on="item", right_on="id", how="inner")
    return joined.drop("item").rename({"number": "item"}).sort("item")


def read_item_table(path: str | Path, item_column: str | None = None, notes: list[str] | None = None) -> pl.DataFrame:
    """Read item labels from a table of any format that the log may have: every column is kept.

    Ids are read as those of the log are, and titles as text; genres apart by `|` become a list; other columns are
    numbers where all of their values are. Rows without an id are left out and counted in `notes`.
    """
    path, notes = Path(path), [] if notes is None else notes
    found = sniff(path)
    if not found.is_table:
        raise DataError(f"{path}: no header line; put one on top that names the columns, such as item,title")
    table = found.open()
    names = [name for name in table.columns if name.strip()]
    _check_names(path, names)
    columns = [item_column] if item_column in names else usual(names, USUAL["item"]) if not item_column else []
    if len(columns) != 1:
        shown, problem = ", ".join(names[:20]), "item may be " + " or ".join(columns) if columns else "no item column"
        raise DataError(f"{path}: {problem}; its columns are {shown}; give it the name that it has in the log")
    raw = table.read(names)
    ids, is_bad = to_ids(raw[columns[0]])
    if ids.dtype not in (pl.Int64, pl.String):
        raise DataError(f"{path}: item ids are {ids.dtype}; they must be whole numbers or text (column {columns[0]!r})")
    labels = raw.select(ids.alias("item"), *(name for name in names if name not in ("item", columns[0])))
    blank = raw.select(pl.all_horizontal(pl.all().is_null())).to_series()
    if rows := int((is_bad & ~blank).sum()):
        notes.append(f"{rows} rows of {path.name} have no id and were left out")
    labels = labels.filter(~is_bad)
    titles = usual(labels.columns, TITLES)
    if "title" not in labels.columns and len(titles) == 1:
        labels = labels.rename({titles[0]: "title"})
        notes.append(f"titles are from the column {titles[0]} of {path.name}")
    if labels.schema.get("genres") == pl.String:
        labels = labels.with_columns(pl.col("genres").str.split("|"))
    as_they_are = ("item", "title", "genres")
    return labels.with_columns(_as_number(labels[name]) for name in labels.columns if name not in as_they_are)


def _check_names(path: Path, names: list[str]) -> None:
    if twice := [name for name in names if names.count(name) > 1]:
        raise DataError(f"{path}: two columns are called {twice[0][:40]!r}; rename or remove one")


def _as_number(column: pl.Series) -> pl.Series:
    """Text as whole numbers, or else as numbers, where every value is one; but for leading zeros, which say: text."""
    if column.dtype != pl.String:
        return column
    filled = pl.select(pl.when(column != "").then(column)).to_series().alias(column.name)
    if filled.null_count() == len(filled) or filled.str.contains(r"^0\d").any():
        return filled
    for kind in (pl.Int64, pl.Float64):
        if (numbers := filled.cast(kind, strict=False)).null_count() == filled.null_count():
            return numbers
    return filled
