"""What is known of users: of planted data, of MovieLens-100K, and how broad their taste is."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from settings import GIVEN, train_config

from mrl import fit
from mrl.data import Positives, planted
from mrl.levels.users import taste_breadth, user_classes

PLANTED = {"num_users": 150, "num_items": 64, "interactions": 2500, "branching": [4, 4]}


def test_breadth_is_the_effective_number_of_labels() -> None:
    seen = Positives.from_pairs([0, 0, 1, 1, 1, 1, 2, 4], [0, 1, 0, 1, 2, 3, 4, 5], 5, 6)
    labels = pl.Series([["a"], ["a"], ["b"], ["c"], ["a", "b"], []], dtype=pl.List(pl.String))
    breadth = taste_breadth(seen, labels)
    assert breadth[:3] == pytest.approx([1, np.exp(1.5 * np.log(2)), 2])  # one label; shares 1/2, 1/4, 1/4; two halves
    assert np.isnan(breadth[3:]).all()  # nothing seen, and nothing known of it


def test_planted_users_are_at_home_where_they_were_planted(tmp_path) -> None:
    config = {"dataset": "planted", "planted": PLANTED, "widths": (2, 4), "recipe": "least_squares", "seed": 3}
    run = fit(train_config(**config, **GIVEN, run_dir=str(tmp_path / "run")), progress=False)
    classes = user_classes(run)
    assert list(classes) == ["activity", "breadth", "home_1", "home_2"]
    homes = planted(**PLANTED, seed=3).homes[run.user_ids.astype(int)]
    assert [classes[f"home_{depth}"].to_list() for depth in (1, 2)] == homes.astype(str).T.tolist()
    most = int(run.seen.counts.argmax())
    assert classes["activity"][most] == "5" and classes["activity"].n_unique() == 5


def test_users_of_movielens_have_ages_and_occupations(tmp_path, monkeypatch) -> None:
    folder = tmp_path / "data" / "ml-100k"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    pairs = [(user, item) for user in range(1, 41) for item in rng.choice(np.arange(1, 31), 8, replace=False)]
    lines = [f"{user}\t{item}\t5\t{number}" for number, (user, item) in enumerate(pairs)]
    (folder / "ml.inter").write_text(
        "\n".join(["user_id:token\titem_id:token\trating:float\ttimestamp:float", *lines]) + "\n"
    )
    header = "user_id:token\tage:token\tgender:token\toccupation:token\n"
    users = [f"{user}\t{10 + user}\t{'MF'[user % 2]}\tartist\n" for user in range(1, 40)]
    (folder / "ml.user").write_text(header + "".join(users))
    config = train_config(
        dataset=str(folder), widths=(2, 4), recipe="least_squares", run_dir=str(tmp_path / "run"), **GIVEN
    )
    run = fit(config, progress=False)
    classes = user_classes(run)
    assert list(classes) == ["activity", "age", "gender", "occupation"]  # nothing is known of the items
    ages = dict(zip(run.user_ids.tolist(), classes["age"], strict=True))
    assert (ages[1], ages[8], ages[14], ages[15], ages[39], ages[40]) == (
        "under 18", "18 to 24", "18 to 24", "25 to 34", "45 to 49", None,
    )  # fmt: skip
    (folder / "ml.user").unlink()
    assert list(user_classes(run)) == ["activity"]
