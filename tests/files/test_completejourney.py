"""completejourney from stand-ins of its files: what is read, how titles and paths are made, what is refused."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from pathlib import Path

import polars as pl
import pytest

from mrl.data.datasets import load_dataset
from mrl.data.registry import DATASETS
from mrl.errors import DataError
from mrl.files.completejourney import read_products
from mrl.files.parsers import read_log

PRODUCTS = pl.DataFrame(
    {
        "product_id": [7, 8, 9, 10, 11],
        "manufacturer_id": [1, 1, 2, 2, 2],
        "department": ["GROCERY", "GROCERY", "DELI", "MEAT", "COUPON"],
        "brand": ["National", "Private", "National", None, "National"],
        "product_category": ["COFFEE", "COFFEE", "SALADS", "PORK", None],
        "product_type": ["GROUND COFFEE", "OTHER", "OTHER", None, "OTHER"],
        "package_size": ["11 OZ", None, "CR    8 OZ", None, ""],
    }
)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """$MRL_DATA/completejourney with five rows, of which two are of one pair."""
    times = [datetime(2017, month, 1, 12) for month in (3, 1, 2, 2, 2)]
    transactions = pl.DataFrame(
        {
            "household_id": [1, 1, 1, 2, 2],
            "basket_id": [103, 101, 102, 102, 102],
            "product_id": [7, 7, 9, 8, 99],
            "quantity": [1, 2, 1, 1, 0],
            "transaction_timestamp": times,
        }
    )
    folder = tmp_path / "completejourney"
    folder.mkdir()
    transactions.write_parquet(folder / "transactions.parquet")
    PRODUCTS.write_parquet(folder / "products.parquet")
    monkeypatch.setenv("MRL_DATA", str(tmp_path))
    monkeypatch.setitem(DATASETS, "completejourney", replace(DATASETS["completejourney"], interactions=5))
    return folder


def test_a_depth_is_the_path_down_to_it_and_null_from_the_first_unknown_name_on(folder):
    products = read_products(folder / "products.parquet")
    assert products.columns == ["item", "title", "depth_1", "depth_2", "depth_3", "brand", "package_size"]
    assert products.select("depth_1", "depth_2", "depth_3").rows() == [
        ("GROCERY", "GROCERY > COFFEE", "GROCERY > COFFEE > GROUND COFFEE"),
        ("GROCERY", "GROCERY > COFFEE", "GROCERY > COFFEE > OTHER"),
        ("DELI", "DELI > SALADS", "DELI > SALADS > OTHER"),
        ("MEAT", "MEAT > PORK", None),
        ("COUPON", None, None),
    ]


def test_titles_are_words(folder):
    titles = read_products(folder / "products.parquet")["title"].to_list()
    assert titles[:3] == ["Ground coffee, 11 oz (national)", "Other (private)", "Other, cr 8 oz (national)"]
    assert titles[3:] == ["Pork", "Other (national)"], "the narrowest name that is known; an empty size is none"


def test_the_log_has_a_row_a_purchase(folder):
    log = read_log(folder / "transactions.parquet")
    assert log.columns == ["user", "item", "timestamp"] and log["item"].to_list() == [7, 7, 9, 8, 99]


def test_by_name_pairs_are_merged_and_the_earliest_time_counts(folder):
    data = load_dataset("completejourney", split="leave_last")
    assert data.user_ids.tolist() == [1, 2] and data.item_ids.tolist() == [7, 8, 9, 99]
    tested = list(zip(data.test.users.tolist(), data.item_ids[data.test.items.numpy()].tolist(), strict=True))
    assert tested == [(0, 9), (1, 99)], "product 7 was first bought before product 9"
    assert data.labels["depth_1"].to_list() == ["GROCERY", "GROCERY", "DELI", None]
    notes = "; ".join(data.notes)
    assert all(words in notes for words in ("MIT", "one basket share a time", "1 duplicate", "1 items without labels"))


def test_by_path_it_is_ones_own_and_may_have_any_size(folder, monkeypatch):
    monkeypatch.undo()
    data = load_dataset(folder)
    assert data.num_items == 4 and not any("MIT" in note for note in data.notes)


@pytest.mark.robustness
def test_a_truncated_copy_or_another_table_is_refused_in_one_line(folder, monkeypatch):
    PRODUCTS.drop("product_type").write_parquet(folder / "products.parquet")
    with pytest.raises(DataError, match=r"products\.parquet: no column product_type; its columns are item, "):
        load_dataset("completejourney")
    PRODUCTS.write_parquet(folder / "products.parquet")
    monkeypatch.setitem(DATASETS, "completejourney", replace(DATASETS["completejourney"], interactions=1_469_307))
    with pytest.raises(DataError, match="5 interactions where completejourney has 1,469,307, probably a truncated"):
        load_dataset("completejourney")
    whole = (folder / "transactions.parquet").read_bytes()
    (folder / "transactions.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="not a whole Parquet file"):
        load_dataset("completejourney")


def test_the_real_files_have_the_known_sizes(real_data, monkeypatch):
    if not (real_data / "completejourney" / "products.parquet").is_file():
        pytest.skip(f"no completejourney in {real_data}")
    monkeypatch.setenv("MRL_DATA", str(real_data))
    data = load_dataset("completejourney", core=10)
    assert (data.num_users, data.num_items, len(data.train) + len(data.test)) == (2389, 17_141, 740_354)
    assert [data.labels[f"depth_{depth}"].drop_nulls().n_unique() for depth in (1, 2, 3)] == [26, 274, 1506]
