"""Sentences about several models: the first one's in view, the others' folded away, all by their display names."""

from __future__ import annotations

import polars as pl

from mrl.analysis.sentences import describe_models, rank_models
from mrl.hierarchy.describe import describe_neighbours


def test_sentences_of_the_first_model_come_first_and_the_others_are_folded_away():
    row = {"label": "genres", "neighbours": 10, "metric": "jaccard", "chance": 0.1, "chance_std": 0.0}
    table = pl.DataFrame(
        [
            {"model": model, "width": width, **row, "value": value}
            for model, values in {"default": (0.2, 0.5), "bpr-rotated": (0.3, 0.4)}.items()
            for width, value in zip((4, 64), values, strict=True)
        ]
    )
    text = describe_models(describe_neighbours, table)
    first, _, rest = text.partition("<details>")
    assert first.startswith("**default recipe**: ") and "20 % of their genres in common at width 4" in first
    assert "- **BPR, rotated**: " in rest
    assert describe_models(describe_neighbours, table.clear()) == ""
    assert "<details>" not in describe_models(describe_neighbours, table.filter(model="default"))
    assert rank_models(table, "Jaccard") == (
        "Jaccard, highest first, at width 4: *BPR, rotated* 0.30 and *default recipe* 0.20 (chance 0.10); "
        "at width 64: *default recipe* 0.50 and *BPR, rotated* 0.40 (chance 0.10)."
    )
    assert rank_models(table.filter(model="default"), "Jaccard") == ""
