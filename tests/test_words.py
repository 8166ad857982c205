"""Numbers, lists and models as readers see them."""

from __future__ import annotations

import pytest

from mrl.words import (
    MODELS,
    STAGES,
    branch_number,
    describe_widths,
    is_most,
    label_colours,
    listed,
    metric_title,
    model_looks,
    model_name,
    model_names,
    percent,
    readable,
)


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("default", "default recipe"),
        ("default-dns-mns", "default recipe (dns, mns)"),
        ("default-ahns-shared", "default recipe (ahns, shared)"),
        ("least-squares", "default recipe, untrained"),
        ("least_squares", "default recipe, untrained"),
        ("mf-dns-mns", "MRL4Rec (MNS)"),
        ("mf-dns-shared", "MRL4Rec, shared negatives"),
        ("mf-bce-ahns-mns", "MRL4Rec (MNS, BCE, AHNS)"),
        ("lightgcn-dns-mns", "MRL4Rec on LightGCN (MNS)"),
        ("lightgcn2-dns-shared", "MRL4Rec on LightGCN, shared negatives"),
        ("lightgcn-ahns-mns", "MRL4Rec on LightGCN (MNS, AHNS)"),
        ("ials-256", "iALS-256, rotated"),
        ("ials-alone", "iALS at each width alone"),
        ("ials-alone-8", "iALS at width 8 alone"),
        ("alone-16", "BPR at width 16 alone"),
        ("mf-dns-alone4", "BPR at width 4 alone"),
        ("bpr-rotated", "BPR, rotated"),
        ("my-own", "my-own"),
    ],
)
def test_models_have_names_that_a_reader_knows(model, name):
    assert model_name(model) == name


def test_two_models_are_never_called_alike():
    assert model_names(["default", "mrl4rec"]) == {"default": "default recipe", "mrl4rec": "MRL4Rec (MNS)"}
    assert model_names(["mf-dns-mns", "mrl4rec", "ease"]) == {
        "mf-dns-mns": "mf-dns-mns",
        "mrl4rec": "mrl4rec",
        "ease": "EASE",
    }


def test_stages_differ_and_begin_and_end_with_the_looks_of_models():
    assert len({look.colour for look in STAGES.values()}) == len({look.marker for look in STAGES.values()}) == 5
    for stage, model in {"ials": "ials", "rotated": "least_squares", "trained": "default"}.items():
        assert STAGES[stage][1:] == MODELS[model][1:]


def test_a_model_keeps_its_look_wherever_it_is_drawn():
    together = ["default", "mrl4rec", "bpr-rotated", "shared", "ials", "alone", "ease", "popularity"]
    looks = model_looks(together)
    assert len({look.colour for look in looks.values()}) == len(together)
    for models in (together[::-1], together[4:], ["my-own", "ials"]):
        assert all(look == looks[model] for model, look in model_looks(models).items() if model in looks)
    for name in ("mf-dns-mns", "MRL4Rec (MNS)"):  # of whatever table, by its id or its display name
        assert model_looks([name])[name][1:] == MODELS["mrl4rec"][1:]
    assert model_looks(["ials-256"])["ials-256"][1:] == MODELS["ials"][1:]


def test_models_that_are_drawn_together_can_be_told_apart():
    many = ["ials-32", "ials-64", "ials-128", "mine", "yours", *MODELS]
    looks = {look.name: look[1:] for look in model_looks(many).values() if look.name not in ("alone", "mf-dns-alone")}
    assert len(set(looks.values())) == len(looks)


def test_a_genre_and_a_branch_keep_their_colour():
    colours = label_colours(["Drama", "Comedy", "Action", "Thriller", "Romance", "Children's", "Adventure", "Horror"])
    assert len(set(colours.values())) == len(colours)
    assert label_colours(["other things", "Horror", "Drama"])["Drama"] == colours["Drama"]
    branches = label_colours([f"branch 1·{number}" for number in range(4)])
    assert len(set(branches.values())) == 4
    assert label_colours(["branch 1·3"])["branch 1·3"] == branches["branch 1·3"]
    named = [f"{number}: {name}" for number, name in enumerate(["Horror / War", "Drama", "Drama / Crime", "12: 3"])]
    assert [*label_colours(named[::-1]).values()] == [*branches.values()][::-1]
    assert [branch_number(name) for name in (*named, "branch 2·7", "12 Monkeys", "Drama", "1995")] == [
        0, 1, 2, 3, 7, None, None, None,
    ]  # fmt: skip


def test_numbers_and_lists_in_words():
    assert [percent(value) for value in (0.62, 0.006, 0.0)] == ["62 %", "0.6 %", "0 %"]
    assert [listed(words) for words in ((), "a", "ab", "abc")] == ["", "a", "a and b", "a, b and c"]
    assert (metric_title("ndcg@20"), metric_title("recall", 10)) == ("NDCG@20", "Recall@10")
    assert (readable("depth_1"), readable("year")) == ("true depth 1", "release year")
    assert is_most({"share": 0.6}) and not is_most({"share": None})


VALUES = {4: 0.17, 16: 0.188, 64: 0.2}


@pytest.mark.parametrize(
    ("wider", "values", "line"),
    [
        (
            [(128, 0.06), (256, 0.09)], VALUES,
            "on validation, 128 dimensions would gain 6 % in NDCG@20, 256 9 %; 16 keep 94 %",
        ),
        ([], VALUES, "on validation, no wider vectors would gain clearly in NDCG@20; 16 dimensions keep 94 %"),
        (None, VALUES, "on validation, 16 dimensions keep 94 % of the NDCG@20 of 64"),
        ([(128, 0.013)], {4: 0.1, 64: 0.2}, "on validation, 128 dimensions would gain 1 % in NDCG@20"),
        ([], {64: 0.2}, "on validation, no wider vectors would gain clearly in NDCG@20"),
        (None, {4: 0.1, 64: 0.2}, ""),
        (None, {64: 0.2}, ""),
        (None, {4: 0.0, 64: 0.0}, ""),
    ],
)  # fmt: skip
def test_what_widths_are_worth_is_said_in_one_line(wider, values, line) -> None:
    assert describe_widths("ndcg@20", wider, values) == line


def test_the_metric_of_it_is_the_one_that_is_watched() -> None:
    assert "in Recall@10;" in describe_widths("recall@10", [(128, 0.06)], VALUES)
