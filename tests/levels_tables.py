"""Summaries of levels, made by hand."""

from __future__ import annotations

import polars as pl

from mrl.levels.study import SUMMARY


def kept_table(kept: dict[str, dict[str, float]]) -> pl.DataFrame:
    """By model and label, what width 4 keeps of what 64 knows: .5, chance .1. Nested models differ from svd by 0."""
    rows = []
    for model, by_label in kept.items():
        for label, share in by_label.items():
            for width, retained in ((4, share), (64, 1.0)):
                row = {"dataset": "d", "side": "items", "label": label, "classes": 5, "metric": "neighbours"}
                row |= {"average": "macro", "model": model, "width": width, "seeds": 3, "chance": 0.1}
                row |= {"value": 0.1 + 0.4 * retained, "retained": retained}
                row |= {f"retained_{end}": retained + by for end, by in (("low", -0.05), ("high", 0.05))}
                row |= {"low": row["value"] - 0.02, "high": row["value"] + 0.02}
                if model != "svd":
                    row |= {"other": "svd", "difference": 0.0, "difference_low": -0.1, "difference_high": 0.1}
                rows.append(row)
    return pl.DataFrame(rows, schema=SUMMARY)
