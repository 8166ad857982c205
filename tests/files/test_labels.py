"""Item labels: what each kind of file says of an item, and the join from the paper's numbers to titles."""

from __future__ import annotations

import polars as pl
import pytest

from mrl.errors import DataError
from mrl.files.labels import by_first_appearance, read_atomic_items, read_item_table, read_movies, read_users, replay
from mrl.files.parsers import read_log


def test_u_item(tmp_path):
    flags = "0|0|0|1|1|1|0|0|0|0|0|0|0|0|0|0|0|0|0"
    lines = [
        f"1|Toy Story (1995)|01-Jan-1995||http://x|{flags}",
        f"2|Misérables, Les (1995)|01-Jan-1995||http://x|{'|'.join('0' * 19)}",
        f"267|unknown||||{'|'.join('1' + '0' * 18)}",
    ]
    (tmp_path / "u.item").write_text("\n".join(lines) + "\n", encoding="latin-1")
    assert read_movies(tmp_path / "u.item").rows() == [
        (1, "Toy Story", 1995, ["Animation", "Children's", "Comedy"]),
        (2, "Misérables, Les", 1995, []),
        (267, "unknown", None, ["unknown"]),
    ]


def test_movies_dat(tmp_path):
    body = "1::Toy Story (1995)::Animation|Comedy\r\n\r\n2::Café (Le) (1995)::Drama\r\n"
    (tmp_path / "movies.dat").write_bytes(body.encode("latin-1"))
    assert read_movies(tmp_path / "movies.dat").rows() == [
        (1, "Toy Story", 1995, ["Animation", "Comedy"]),
        (2, "Café (Le)", 1995, ["Drama"]),
    ]


@pytest.mark.parametrize(("name", "body"), [("u.item", "1|Toy Story (1995)\n"), ("movies.dat", "x::Toy::Drama\n")])
def test_a_broken_line_is_named(tmp_path, name, body):
    (tmp_path / name).write_text(body)
    with pytest.raises(DataError, match=f"{name}:1: "):
        read_movies(tmp_path / name)


def test_users_of_movielens_and_of_atomic_files(tmp_path):
    (tmp_path / "u.user").write_text("1|24|M|technician|85711\n2|53|F|other|94043\n\n")
    header = "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token\n"
    (tmp_path / "a.user").write_text(header + "1\t24\tM\ttechnician\t85711\n2\t53\tF\tother\t94043\n")
    for name in ("u.user", "a.user"):
        users = read_users(tmp_path / name)
        assert users.columns == ["user", "age", "gender", "occupation"]
        assert users.rows() == [(1, 24, "M", "technician"), (2, 53, "F", "other")]
    (tmp_path / "u.user").write_text("1|24|M|technician|85711\n2|53\n")
    with pytest.raises(DataError, match=r"u\.user:2: is not `id\|age"):
        read_users(tmp_path / "u.user")
    (tmp_path / "a.user").write_text("user_id:token\tage:token\n1\t24\n")
    with pytest.raises(
        DataError, match=r"a\.user:1: no column gender:token, occupation:token; its columns are user_id"
    ):
        read_users(tmp_path / "a.user")


def test_atomic_items(tmp_path):
    header = "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\tprice:float\tvec:float_seq\n"
    (tmp_path / "a.item").write_text(header + '1\tSay "Yes"\t1995\tDrama War\t2.5\t1 2\n2\tV\tunknown\t\t\t\n')
    labels = read_atomic_items(tmp_path / "a.item")
    assert labels.columns == ["item", "title", "year", "genres", "price"]
    assert labels.rows() == [(1, 'Say "Yes"', 1995, ["Drama", "War"], 2.5), (2, "V", None, [], None)]
    (tmp_path / "a.item").write_text("item_id\ttitle\n1\tx\n")
    with pytest.raises(DataError, match="not typed"):
        read_atomic_items(tmp_path / "a.item")


def test_item_table(tmp_path):
    (tmp_path / "items.csv").write_text("asin,title,genres,price\nB1,One,War|Drama,3\n")
    labels = read_item_table(tmp_path / "items.csv", "asin")
    assert labels.rows() == [("B1", "One", ["War", "Drama"], 3)] and labels.columns[0] == "item"
    assert read_item_table(tmp_path / "items.csv").equals(labels), "asin is a usual name"
    with pytest.raises(DataError, match="no item column; its columns are asin, title"):
        read_item_table(tmp_path / "items.csv", "sku")


def test_first_appearance():
    assert by_first_appearance(pl.Series([7, 3, 7, 9, 3])).rows() == [(7, 0), (3, 1), (9, 2)]


def test_replay_refuses_what_does_not_line_up():
    ratings = pl.DataFrame({"user": [5, 6, 5], "item": [30, 10, 10]})
    labels = pl.DataFrame({"item": ["10", "30", "77"], "title": ["ten", "thirty", "never rated"]})
    paper = pl.DataFrame({"user": [1, 0, 0], "item": [1, 0, 1]})
    assert replay(paper, ratings, labels).sort("item").select("item", "title").rows() == [(0, "thirty"), (1, "ten")]
    assert replay(paper.with_columns(item=1 - pl.col("item")), ratings, labels) is None
    assert replay(paper.head(2), ratings, labels) is None


def test_the_papers_users_have_the_very_items_of_the_ratings_file(real_data):
    """The claim on which titles for ml100k rest, by a slow loop."""
    numbers, expected = ({}, {}), {}
    for line in (real_data / "ml-100k" / "ml-100k.inter").read_text().splitlines()[1:]:
        user, item = (known.setdefault(raw, len(known)) for known, raw in zip(numbers, line.split("\t"), strict=False))
        expected.setdefault(user, set()).add(item)
    items_of = {}
    for part in ("train.txt", "test.txt"):
        for user, item in read_log(real_data / "ml100k" / part).rows():
            items_of.setdefault(user, set()).add(item)
    assert len(items_of) == 943 and items_of == expected
    paper = pl.concat([read_log(real_data / "ml100k" / part) for part in ("train.txt", "test.txt")])
    ratings = read_log(real_data / "ml-100k" / "ml-100k.inter")
    labels = replay(paper, ratings, read_atomic_items(real_data / "ml-100k" / "ml-100k.item"))
    assert len(labels) == 1682
    assert labels.row(0, named=True) == {"title": "Kolya", "year": 1996, "genres": ["Comedy"], "item": 0}
