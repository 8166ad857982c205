"""Sentences are computed: known tables in, their figures and words out; other tables, other words."""

from __future__ import annotations

import polars as pl
import pytest

from mrl.hierarchy.describe import (
    describe_agreement,
    describe_blocks,
    describe_clusters,
    describe_flows,
    describe_list,
    describe_neighbours,
    describe_nesting,
    describe_recovery,
    describe_similarity,
    listed,
    percent,
)


def test_shares_and_lists_in_words():
    assert (percent(0.62), percent(0.006), percent(0), percent(1)) == ("62 %", "0.6 %", "0 %", "100 %")
    assert (listed([]), listed(["a"]), listed(["a", "b"]), listed(["a", "b", "c"])) == (
        "",
        "a",
        "a and b",
        "a, b and c",
    )


def agreement_table(amis: list[float], std: float = 0.001) -> pl.DataFrame:
    rows = []
    for width, ami in zip((4, 8, 16), amis, strict=True):
        key = {"clustering": "fixed", "width": width, "clusters": 16, "label": "genres"}
        rows.append({**key, "metric": "ami", "value": ami, "chance": 0.0, "chance_std": std})
        rows.append({**key, "metric": "purity", "value": 0.4 + width / 100, "chance": 0.4, "chance_std": std})
    return pl.DataFrame(rows)


def test_agreement_in_words():
    text = describe_agreement(agreement_table([0.1, 0.3, 0.2]))
    assert (
        "With 16 clusters at every width, agreement with genres (AMI: 0 by chance, 1 for the same groups) rises" in text
    )
    assert "is partial at best" in text and "weak at best" in describe_agreement(agreement_table([0.1, 0.1, 0.1]))
    assert "close at best" in describe_agreement(agreement_table([0.1, 0.1, 0.7]))
    assert "0.10 at width 4, 0.20 at width 16, most at width 8 (0.30)" in text
    assert "44 % of items" in text and "56 % at width 16 (chance 40 %)" in text
    assert "falls" in describe_agreement(agreement_table([0.3, 0.2, 0.1]))
    assert "stays level" in describe_agreement(agreement_table([0.2, 0.2, 0.2]))
    assert "None of this is beyond chance." in describe_agreement(agreement_table([0.01, 0.0, 0.01], std=0.02))


def test_neighbours_and_similarity_in_words():
    rows = [{"width": w, "neighbours": 10, "label": "depth_2", "metric": "jaccard"} for w in (4, 64)]
    table = pl.DataFrame(rows).with_columns(value=pl.Series([0.25, 0.5]), chance=0.125)
    assert describe_neighbours(table) == (
        "An item and one of its 10 nearest neighbours have 25 % of their true depth 2 in common at width 4 and 50 % at "
        "width 64 (Jaccard index; chance 12 %)."
    )
    pairs = [(a, b) for a in (4, 8, 64) for b in (4, 8, 64)]
    overlap = [{"width": a, "other_width": b, "neighbours": 10, "metric": "overlap"} for a, b in pairs]
    overlap = [{**row, "value": 1 / 4 if row["other_width"] == 4 else 1 / 2, "chance": 0.006} for row in overlap]
    cka = [{"width": a, "other_width": b, "metric": "cka", "value": 0.75, "chance": 0.01} for a, b in pairs]
    text = describe_similarity(pl.concat([pl.DataFrame(overlap), pl.DataFrame(cka)], how="diagonal"))
    assert "10 nearest at width 64, 25 % are among its nearest at width 4 already and 50 % at width 8" in text
    assert "(chance 0.6 %)" in text
    assert "alike in the first 4 dimensions and in all 64 to 0.75 (linear CKA: 1 is the same, chance 0.01)" in text


def test_nesting_in_words():
    pairs = {(8, 4): 0.9, (16, 4): 0.8, (16, 8): 0.7}
    rows = []
    for (width, other_width), share in pairs.items():
        key = {"clustering": "by_width", "width": width, "other_width": other_width}
        rows.append({**key, "metric": "share", "value": share, "chance": 0.25})
        rows.append({**key, "metric": "entropy", "value": 0.5, "chance": 2.0})
    text = describe_nesting(pl.DataFrame(rows))
    assert "80 % of the items of a cluster at width 16 lie in one cluster of width 4 (chance 25 %)" in text
    assert "takes away 75 % of the doubt about its coarse one (0.5 of 2.0 bits are left)" in text
    assert "the weakest nesting is 8 to 16 (70 %, chance 25 %)" in text


SPANS = (("block", 4, 0), ("block", 64, 32), ("prefix", 32, 0), ("prefix", 64, 0))


def blocks_table(popularity: tuple[float, ...], horror: tuple[float, ...] = (0.9, 0.5, 0.6, 0.8)) -> pl.DataFrame:
    """R² of popularity and AUC of Horror in the first block, the last one, the first 32 and all 64 dimensions."""
    rows = []
    for (part, width, start), r2, auc in zip(SPANS, popularity, horror, strict=True):
        key = {"part": part, "width": width, "start": start}
        chance = {"chance": -0.01, "chance_std": 0.01}
        rows.append({**key, "label": "popularity", "class": None, "metric": "r2", "value": r2, **chance})
        chance = {"chance": 0.5, "chance_std": 0.02}
        for name, value in (("Horror", auc), ("Drama", 0.7 if width == 4 else 0.5), (None, auc - 0.1)):
            rows.append({**key, "label": "genres", "class": name, "metric": "auc", "value": value, **chance})
        rows.append(
            {**key, "label": None, "class": None, "metric": "variance_share", "value": width / 100, "chance": 0.25}
        )
        rows.append(
            {**key, "label": None, "class": None, "metric": "effective_rank", "value": width / 2, "chance": width - 1}
        )
    return pl.DataFrame(rows, infer_schema_length=None)


def test_blocks_in_words():
    assert describe_blocks(blocks_table((0.62, 0.03, 0.7, 0.75))) == (
        "In keeping with coarse first, the first 4 tell popularity (log) and genres best. "
        "A linear model that sees only the first 4 dimensions explains 62 % of the variance of popularity (log), and "
        "tells genres apart with AUC 0.80 (chance 0.50). It knows best: Horror (0.90) and Drama (0.70). "
        "(AUC: how often an item that has the label ranks above one that has not.) "
        "One that sees only the last 32 explains 3 % of the variance of popularity (log), and tells genres apart no "
        "better than chance. The last 32 tell no genres apart beyond chance. "
        "Added to the first 32 they raise popularity (log) from 70 % to 75 % and genres from AUC 0.50 to 0.70; Horror "
        "gains most (0.60 to 0.80). "
        "The first 4 hold 4 % of the items' variance (25 % of the dimensions), the last 32 64 % "
        "(25 %), spread over 2.0 and 32.0 directions (effective rank; 3.0 and 63.0 if they did not correlate)."
    )
    text = describe_blocks(blocks_table((0.0, 0.5, 0.5, 0.5), horror=(0.9, 0.8, 0.8, 0.8)))
    assert "explains nothing of popularity (log), and" in text and "It knows best: Horror (0.80)." in text
    assert "they leave popularity (log) as it was (50 %) and genres as it was (AUC 0.70)." in text
    assert (
        "first 4 tell genres best. Against coarse first, a model of one block reads popularity (log) best from " in text
    )
    assert "dimensions 33 to 64 (50 %; the first 4: 0 %)." in text
    blocks = blocks_table((0.6, 0.5, 0.5, 0.5)).filter(pl.col("part") == "block")
    assert "Added to" not in describe_blocks(blocks)
    shape = describe_blocks(blocks.filter(pl.col("label").is_null()))
    assert shape.startswith("The first 4 hold 4 % of the items' variance (25 % of the dimensions), the last 32 64 %")


def cluster_table(largest: float = 0.5) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "clustering": ["by_width"] * 4,
            "width": [4, 4, 64, 64],
            "cluster": [0, 1, 0, 1],
            "items": [60, 40, 50, 50],
            "share": [largest, 1 - largest, 0.5, 0.5],
            "popularity_share": [0.3, 0.7, 0.5, 0.5],
            "typical": ["Animation / Musical", "Horror", "Western", None],
            "lift": [6.0, 3.0, 9.0, None],
            "titles": ["Aladdin", "Alien", "Tombstone", "Fargo"],
        }
    )


def test_clusters_and_flows_in_words():
    assert describe_clusters(cluster_table()) == (
        "At width 4 clusters set apart Animation (6.0 times its usual share in 60 items) and Horror (3.0 times its "
        "usual share in 40 items). At width 64 clusters set apart Western (9.0 times its usual share in 50 items). "
        "Western is typical of a cluster of width 64, and of none of the narrowest width."
    )


def test_a_label_that_stands_second_in_the_name_of_a_narrow_cluster_is_not_called_new():
    musical = cluster_table().with_columns(pl.col("typical").replace("Western", "Musical / Western"))
    assert "Musical is typical" not in describe_clusters(musical) and "Musical (9.0" in describe_clusters(musical)


def test_a_change_that_rounds_away_is_no_change_and_a_loss_is_said_to_be_one():
    text = describe_blocks(blocks_table((0.6, 0.1, 0.951, 0.949), horror=(0.9, 0.8, 0.93, 0.92)))
    assert "they leave popularity (log) as it was (95 %) and genres as it was (AUC 0.82)." in text
    lower = describe_blocks(blocks_table((0.6, 0.1, 0.95, 0.9), horror=(0.9, 0.8, 0.93, 0.92)))
    assert "they lower popularity (log) from 95 % to 90 % and leave genres as it was (AUC 0.82)." in lower
    rows = [(0, 0, 57, 0.95), (0, 1, 3, 0.05), (1, 0, 16, 0.4), (1, 1, 24, 0.6)]
    flows = pl.DataFrame(rows, schema=["cluster", "next_cluster", "items", "share_out"], orient="row")
    flows = flows.with_columns(clustering=pl.lit("by_width"), width=pl.lit(4), next_width=pl.lit(64))
    assert describe_flows(flows, cluster_table()) == (
        "From width 4 to width 64, “Animation / Musical” holds together best (95 % of its items stay in one cluster) "
        "and “Horror” splits most (over 2 clusters, 60 % in the largest)."
    )
    assert "to width 64, the largest cluster holds together best" in describe_flows(flows, cluster_table(0.8))


def test_a_cluster_of_most_items_is_said_to_be_one():
    text = describe_clusters(cluster_table(0.8))
    assert "80 % of the items lie in one cluster, which has 30 % of the interactions." in text
    assert text.startswith("At width 4 clusters set apart Horror (3.0 times its usual share in 40 items).")


def test_lists_in_words():
    table = pl.DataFrame(
        {
            "query": ["Toy Story"] * 6,
            "width": [4, 4, 8, 8, 64, 64],
            "item": [1, 2, 1, 3, 1, 9],
            "title": ["a", "b", "a", "c", "a", "Net, The"],
        }
    )
    assert describe_list(table) == (
        "Toy Story: of the 2 listed at width 64, there are 1 at width 4 and 1 at width 8. At every width: “a”. "
        "Only at width 64: “Net, The”."
    )
    assert describe_list(table.filter(pl.col("width") == 4)) == "Nearest to Toy Story at width 4: a and b."


def test_recovery_in_words():
    amis = {"depth_1": (0.9, 0.92, 0.5), "depth_2": (0.2, 0.4, 0.8), "depth_3": (0.0, 0.0, 0.01)}
    table = pl.DataFrame(
        {"width": w, "clusters": 4, "label": label, "metric": "ami", "value": v, "chance": 0.0, "chance_std": 0.02}
        for label, values in amis.items()
        for w, v in zip((4, 8, 16), values, strict=True)
    )
    assert describe_recovery(table) == (
        "True depth 1 (4 clusters) is recovered best at width 8 (AMI 0.92); width 4 is within 5 % of it (0.90). "
        "True depth 2 (4 clusters) is recovered best at width 16 (AMI 0.80). "
        "True depth 3 is recovered at no width (AMI at most 0.01)."
    )


@pytest.mark.parametrize(
    "describe",
    [
        describe_agreement,
        describe_blocks,
        describe_clusters,
        describe_list,
        describe_neighbours,
        describe_nesting,
        describe_recovery,
        describe_similarity,
    ],
)
def test_nothing_to_say(describe):
    assert describe(pl.DataFrame()) == ""


def test_no_flows_nothing_to_say():
    assert describe_flows(pl.DataFrame(), pl.DataFrame()) == ""
