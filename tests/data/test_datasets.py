"""Data sets by name and by path: which files are read, what is refused before anything is read, what comes out."""

from __future__ import annotations

import gzip
from pathlib import Path

import polars as pl
import pytest

from mrl.data import downloads
from mrl.data.datasets import dataset_name, load_dataset
from mrl.data.downloads import fetch
from mrl.data.registry import DATASETS
from mrl.errors import ConfigError, DataError


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    """No data of the machine's own, and no way out."""
    monkeypatch.delenv("MRL_DATA", raising=False)
    monkeypatch.setenv("MRL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MRL_MIRROR", "http://127.0.0.1:9")

    def no_wheel(*_):
        raise DataError("no package index in tests")

    monkeypatch.setattr(downloads, "from_wheel", no_wheel)


def write(folder: Path, **files: str) -> Path:
    """Files by name, `train_txt="…"` for train.txt, in a new folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, body in files.items():
        (folder / ".".join(name.rsplit("_", 1))).write_text(body)
    return folder


def pairs(split, data) -> set[tuple]:
    rows = zip(split.users.tolist(), split.items.tolist(), strict=True)
    return {(data.user_ids[user], data.item_ids[item]) for user, item in rows}


def test_the_registry_has_every_name_and_first_hand_checks():
    assert list(DATASETS) == [
        "ml-100k", "ml-1m", "ml100k", "phone", "sport", "tool", "yelp", "gowalla", "amazon-book",
        "completejourney", "planted",
    ]  # fmt: skip
    for name, source in DATASETS.items():
        for remote in source.files:
            assert len(remote.git_blob or "") == 40 or len(remote.sha256 or "") == 64, (name, remote)
            assert source.base.startswith("https://") or (source.wheel and not source.base)


@pytest.mark.parametrize("name", ["ml-100k", "ml100k", "phone", "tool"])
def test_real_data_by_name(name, real_data, monkeypatch):
    sizes = {
        "ml-100k": (943, 1682, 100_000), "ml100k": (943, 1682, 80_217), "phone": (27_879, 10_429, 155_163),
        "tool": (16_638, 10_217, 107_772),
    }  # fmt: skip
    tests = {"ml100k": 19_783, "phone": 39_276, "tool": 26_704}
    monkeypatch.setenv("MRL_DATA", str(real_data))
    data = load_dataset(name)
    train = sizes[name][2] if name in tests else 100_000 - len(data.test)
    assert (data.num_users, data.num_items, len(data.train)) == (*sizes[name][:2], train)
    assert len(data.test) == tests.get(name, 20_000)
    assert data.name == name
    if name in ("ml-100k", "ml100k"):
        assert data.labels.columns == ["title", "year", "genres"] and len(data.labels) == 1682
        row = 0 if name == "ml-100k" else data.item_ids.tolist().index(0)
        expected = ("Toy Story", 1995) if name == "ml-100k" else ("Kolya", 1996)
        assert data.labels.row(row)[:2] == expected
    else:
        assert data.labels is None


def test_ml100k_without_ml_100k_has_no_labels_and_says_so(real_data, monkeypatch, tmp_path):
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "ml100k").symlink_to(real_data / "ml100k")
    monkeypatch.setenv("MRL_DATA", str(tmp_path / "some"))
    data = load_dataset("ml100k")
    assert data.labels is None and any("no item labels" in note for note in data.notes)


@pytest.mark.parametrize("layout", ["u_data", "atomic"])
def test_known_layouts_under_mrl_data(layout, monkeypatch, tmp_path):
    monkeypatch.setitem(DATASETS, "ml-100k", DATASETS["sport"])  # of unknown size
    files = {
        "u_data": {"u_data": "1\t10\t3\t100\n2\t20\t4\t200\n", "u_item": f"10|X (1999)||||{'|'.join('0' * 19)}\n"},
        "atomic": {
            "m_inter": "user_id:token\titem_id:token\n1\t10\n2\t20\n",
            "m_item": "item_id:token\tmovie_title:token_seq\trelease_year:token\n10\tX\t1999\n",
        },
    }[layout]
    write(tmp_path / "ml-100k", **files)
    monkeypatch.setenv("MRL_DATA", str(tmp_path))
    data = load_dataset("ml-100k")
    assert data.item_ids.tolist() == [10, 20]
    assert data.labels.select("title", "year").rows() == [("X", 1999), (None, None)]


def test_a_truncated_copy_is_known_by_its_size(monkeypatch, tmp_path):
    write(tmp_path / "tool", train_txt="0 1 2\n", test_txt="0 3\n")
    monkeypatch.setenv("MRL_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"3 interactions where tool has 134,476, probably a truncated copy"):
        load_dataset("tool")
    assert len(load_dataset(tmp_path / "tool").train) == 2, "by its path, it is one's own data"


@pytest.mark.parametrize("dataset", ["ml-100k", "tool", "yelp", "completejourney"])
def test_out_of_reach_names_the_files_and_the_folder(dataset, tmp_path):
    with pytest.raises(DataError) as caught:
        load_dataset(dataset)
    message = str(caught.value)
    files = {"ml-100k": "u.data and u.item and u.user", "completejourney": "transactions.parquet and products.parquet"}
    files = files.get(dataset, "train.txt and test.txt")
    assert "\n" not in message and f"put {files} into {tmp_path / 'cache' / dataset}" in message


def test_adjacency_lists_in_a_folder_and_as_a_file(tmp_path):
    folder = write(tmp_path / "mine", train_txt="0 1 2\n5 2\n7\n", test_txt="0 3\n5\n9 1\n")
    data = load_dataset(folder)
    assert pairs(data.train, data) == {(0, 1), (0, 2), (5, 2)}
    assert pairs(data.test, data) == {(0, 3), (9, 1)}
    assert data.user_ids.tolist() == [0, 5, 7, 9] and data.name == "mine"
    assert any("only in test" in note for note in data.notes) and any("no items" in note for note in data.notes)
    alone = load_dataset(str(folder / "train.txt"))
    assert pairs(alone.train, alone) | pairs(alone.test, alone) == {(0, 1), (0, 2), (5, 2)}


def test_files_that_are_not_read_are_noted(tmp_path):
    folder = write(tmp_path / "mine", train_txt="0 1 2\n", test_txt="0 3\n", valid_txt="0 4\n")
    assert "not read: valid.txt" in load_dataset(folder).notes


def test_the_same_pair_in_train_and_test(tmp_path):
    folder = write(tmp_path / "mine", train_txt="0 1 2\n", test_txt="0 2 3\n")
    with pytest.raises(DataError, match="drop_test"):
        load_dataset(folder)
    data = load_dataset(folder, overlap="drop_test")
    assert pairs(data.test, data) == {(0, 3)}


TABLE = "who,what,stars,when\n" + "".join(f"u{i % 5},{i * 7 % 11},{i % 5 + 1},{i}\n" for i in range(40))


@pytest.mark.parametrize("suffix", ["csv", "tsv", "parquet"])
def test_tables_with_columns_threshold_and_times(tmp_path, suffix):
    path = write(tmp_path / "mine", events_csv=TABLE) / "events.csv"
    if suffix == "tsv":
        path = write(tmp_path / "mine", events_tsv=TABLE.replace(",", "\t")) / "events.tsv"
    if suffix == "parquet":
        pl.read_csv(path).write_parquet(path := path.with_suffix(".parquet"))
    columns = {"user_column": "who", "item_column": "what", "rating_column": "stars", "timestamp_column": "when"}
    data = load_dataset(path, split="leave_last", min_rating=3, **columns)
    frame = pl.read_csv(TABLE.encode()).filter(pl.col("stars") >= 3)
    assert pairs(data.train, data) | pairs(data.test, data) == set(frame.select("who", "what").rows())
    assert data.name == "events" and set(data.user_ids) <= {f"u{i}" for i in range(5)}


def test_a_folder_of_tables_with_parts_and_labels(tmp_path):
    folder = write(
        tmp_path / "shop",
        train_csv="user,item\n1,a\n2,b\n",
        shop_test_csv="user,item\n1,b\n",
        items_csv="item,title\na,A\n",
    )
    data = load_dataset(folder)
    assert pairs(data.train, data) == {(1, "a"), (2, "b")} and pairs(data.test, data) == {(1, "b")}
    assert data.labels["title"].to_list() == ["A", None]


def test_ids_that_are_numbers_in_one_part_only_become_text(tmp_path):
    folder = write(tmp_path / "shop", train_csv="user,item\n1,10\n2,20\n", test_csv="user,item\n1,B0\n")
    data = load_dataset(folder)
    assert pairs(data.train, data) == {(1, "10"), (2, "20")} and pairs(data.test, data) == {(1, "B0")}


def test_atomic_parts(tmp_path):
    header = "user_id:token\titem_id:token\n"
    folder = write(tmp_path / "mine", mine_train_inter=header + "1\t2\n", mine_test_inter=header + "1\t3\n")
    data = load_dataset(folder)
    assert pairs(data.train, data) == {(1, 2)} and pairs(data.test, data) == {(1, 3)}
    one = load_dataset(folder / "mine_train.inter", split="random")
    assert one.num_items == 1


def test_folders_that_leave_it_open_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"which file\? There is a.csv, b.csv"):
        load_dataset(write(tmp_path / "two", a_csv="user,item\n1,2\n", b_csv="user,item\n1,2\n"))
    with pytest.raises(DataError, match="no data that is known here"):
        load_dataset(write(tmp_path / "none", readme_md="hello"))


@pytest.mark.parametrize(
    ("dataset", "settings", "words"),
    [
        ("ml100K", {}, "did you mean 'ml100k'"),
        (
            "fone",
            {},
            "ml-100k, ml-1m, ml100k, phone, sport, tool, yelp, gowalla, amazon-book, completejourney, planted",
        ),
        ("", {}, "dataset=''"),
        (3, {}, "dataset=3"),
        ("tool", {"split": "half"}, "split='half'"),
        ("tool", {"test_fraction": 1.5}, "test_fraction=1.5"),
        ("tool", {"core": 0}, "core=0"),
        ("tool", {"user_column": "who"}, "user_column"),
        ("tool", {"branching": (2, 2)}, "branching"),
        ("planted", {"branches": (2, 2)}, "did you mean branching?"),
        ("planted", {"split": "temporal"}, "planted has no times"),
        ("planted", {"min_rating": 3}, "planted has no ratings"),
    ],
)
def test_settings_are_refused_before_anything_is_read(dataset, settings, words, monkeypatch):
    monkeypatch.setattr(downloads, "fetch", lambda name: pytest.fail("data was asked for"))
    with pytest.raises(ConfigError) as caught:
        load_dataset(dataset, **settings)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_columns_make_no_sense_for_adjacency_lists(tmp_path):
    folder = write(tmp_path / "mine", train_txt="0 1 2\n")
    with pytest.raises(ConfigError, match="user_column"):
        load_dataset(folder, user_column="who")


@pytest.mark.parametrize("path", ["gone/train.txt", "gone.csv", "./gone"])
def test_a_path_that_is_not_there_is_named(path):
    with pytest.raises(DataError, match="no such file or folder"):
        load_dataset(path)


def test_planted_takes_its_own_settings():
    taxonomy = {"num_users": 50, "num_items": 40, "interactions": 600, "branching": (2, 2)}
    data = load_dataset("planted", **taxonomy, seed=3, test_fraction=0.5)
    assert data.num_users <= 50 and data.name == "planted" and "depth_2" in data.labels.columns
    assert len(data.test) > len(data.train) / 2
    assert data.fingerprint != load_dataset("planted", **taxonomy).fingerprint


def test_nothing_to_fetch_for_planted():
    with pytest.raises(ConfigError, match="planted"):
        fetch("planted")


def test_names_for_run_directories(tmp_path):
    folder = write(tmp_path / "my data (1)", train_txt="0 1\n", events_csv="user,item\n1,2\n")
    assert dataset_name("tool") == "tool"
    assert dataset_name(folder) == "my-data-1"
    assert dataset_name(str(folder / "train.txt")) == "my-data-1"
    assert dataset_name(folder / "events.csv") == "events"
    with pytest.raises(ConfigError):
        dataset_name("nope")


LOG = "user,item\n1,0108775000\n1,0123\n2,0123\n2,123\n3,0108775000\n"


@pytest.mark.parametrize(
    "table",
    [
        "item,title\n0108775000,Sock\n0123,Hat\n123,Cup\n",
        "item;title\n0108775000;Sock\n0123;Hat\n123;Cup\n",
        "sku\tname\n0108775000\tSock\n0123\tHat\n123\tCup\n",
        '"article_id"|"prod_name"|"title"\n"0108775000"|x|Sock\n"0123"|y|Hat\n"123"|z|Cup\n',
        "\ufeffitem,title\r\n0108775000,Sock\r\n0123,Hat\r\n123,Cup\r\n,lost\r\n",
        "item::title\n0108775000::Sock\n0123::Hat\n123::Cup\n",
    ],
    ids=["commas", "semicolons", "tabs", "bars", "bom", "colons"],
)
@pytest.mark.parametrize("by", ["folder", "file"])
def test_the_item_table_is_read_by_the_rules_of_the_log(tmp_path, table, by):
    folder = write(tmp_path / "shop", clicks_csv=LOG)
    (folder / "items.csv").write_bytes(table.encode())
    data = load_dataset(folder if by == "folder" else folder / "clicks.csv")
    titles = dict(zip(data.item_ids.tolist(), data.labels["title"].to_list(), strict=True))
    assert titles == {"0108775000": "Sock", "0123": "Hat", "123": "Cup"}


@pytest.mark.parametrize("suffix", ["csv.gz", "parquet", "txt"])
def test_the_item_table_may_have_any_format(tmp_path, suffix):
    folder = write(tmp_path / "shop", clicks_csv="user,item\n1,7\n2,8\n3,7\n")
    frame = pl.DataFrame({"item_id": [7.0, 8.0], "title": ["1984", "2001"], "price": [1.5, 2.0]})
    path = folder / f"items.{suffix}"
    if suffix == "parquet":
        frame.write_parquet(path)
    elif suffix == "csv.gz":
        path.write_bytes(gzip.compress(frame.write_csv().encode()))
    else:
        frame.write_csv(path, separator="\t")
    if suffix == "txt":  # no suffix of a table: neither read nor in the way
        assert load_dataset(folder).labels is None
        return
    for data in (load_dataset(folder), load_dataset(folder / "clicks.csv")):
        assert data.labels["title"].to_list() == ["1984", "2001"] and data.labels["price"].to_list() == [1.5, 2.0]


def test_labels_that_fit_no_item_are_noted_with_both_ids(tmp_path):
    folder = write(tmp_path / "shop", clicks_csv="user,item\n1,7\n2,8\n", items_csv="item,title\n007,A\n008,B\n")
    data = load_dataset(folder)
    assert "2 items without labels: their ids are like '7', those of the labels like '007'" in data.notes
    assert data.labels["title"].to_list() == [None, None]
    write(folder, items_csv="item,title\n7,A\n7,B\n,C\n")
    notes = load_dataset(folder).notes
    assert "1 rows of items.csv have no id and were left out" in notes
    assert "1 rows of labels are of an item that has some already; the first counts" in notes
    write(folder, items_csv="code,title\n7,A\n")
    with pytest.raises(DataError, match=r"items.csv: no item column; its columns are code, title"):
        load_dataset(folder)
