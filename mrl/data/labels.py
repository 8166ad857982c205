"""What is known of the items: titles, years, genres, from the files that come beside the interactions.

Every reader returns a column `item` (raw ids) and label columns: title (String), year (Int64), genres (List[String])
where there are such, in the file's order.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from mrl.data.parsers import BROKEN_TABLE, MAX_ID, PARQUET, ParquetTable, TextTable, check_readable
from mrl.errors import DataError

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
    check_readable(path)
    flags = path.suffix == ".item"
    separator, width = ("|", 5 + len(U_ITEM_GENRES)) if flags else ("::", 3)
    rows = []
    for line, text in enumerate(path.read_text(encoding="latin-1").splitlines(), start=1):
        fields = text.split(separator)
        if not text.strip():
            continue
        is_id = fields[0].isdecimal() and len(fields[0]) <= len(str(MAX_ID)) and int(fields[0]) <= MAX_ID
        if len(fields) != width or not is_id:
            raise DataError(f"{path}:{line}: {text[:40]!r} is not `id{separator}title{separator}…` of {width} fields")
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
    table = TextTable(Path(path), separator="\t", quoted=False)
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
    return table.read(table.columns).select(**columns)


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


def read_item_table(path: str | Path, item_column: str = "item") -> pl.DataFrame:
    """Read item labels from CSV, TSV or Parquet: every column is kept; genres apart by `|` become a list."""
    path = Path(path)
    if path.suffix.lower() in PARQUET:
        parquet = ParquetTable(path)
        table = parquet.read(parquet.columns)
    else:
        check_readable(path)
        separator = "\t" if path.suffix.lower() == ".tsv" else ","
        try:
            table = pl.read_csv(path, separator=separator, infer_schema_length=None, glob=False)
        except BROKEN_TABLE as error:
            raise DataError(f"{path}: not a well-formed table ({str(error).splitlines()[0]})") from None
    if item_column not in table.columns:
        raise DataError(f"{path}: no column {item_column!r}; its columns are {', '.join(table.columns)}")
    table = table.rename({item_column: "item"})
    if table.schema.get("genres") == pl.String:
        table = table.with_columns(pl.col("genres").str.split("|"))
    return table
