"""Numbers, lists and models as readers see them."""

from __future__ import annotations

import pytest

from mrl.words import is_most, listed, metric_title, model_name, model_names, percent, readable


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


def test_numbers_and_lists_in_words():
    assert [percent(value) for value in (0.62, 0.006, 0.0)] == ["62 %", "0.6 %", "0 %"]
    assert [listed(words) for words in ((), "a", "ab", "abc")] == ["", "a", "a and b", "a, b and c"]
    assert (metric_title("ndcg@20"), metric_title("recall", 10)) == ("NDCG@20", "Recall@10")
    assert (readable("depth_1"), readable("year")) == ("true depth 1", "release year")
    assert is_most({"share": 0.6}) and not is_most({"share": None})
