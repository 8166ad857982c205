"""Sentences about several models: in Markdown, by their display names.

The tables have a column `model`, with one row a model and width.
"""

from __future__ import annotations

from collections.abc import Callable

import polars as pl

from mrl.words import listed, model_names


def describe_models(describe: Callable[..., str], table: pl.DataFrame, **options: object) -> str:
    """The sentences of `describe` on the rows of the first model, those on the others' folded away below."""
    texts = {}
    for (model,), part in table.group_by("model", maintain_order=True) if len(table) else ():
        texts[model] = describe(part.drop("model"), **options)
    names = model_names(texts)
    first, *others = [f"**{names[model]}**: {text}" for model, text in texts.items() if text] or [""]
    if not others:
        return first
    items = "\n".join(f"- {text}" for text in others)
    return "\n\n".join([first, "<details><summary>The same of the other models</summary>", items, "</details>"])


def rank_models(table: pl.DataFrame, quantity: str) -> str:
    """The models in order of their values, at the narrowest width and at the widest.

    table: one metric; of pairs of widths, those with one `other_width`. quantity: what the values are.
    """
    if not len(table) or table["model"].n_unique() < 2:
        return ""
    names, parts = model_names(table["model"].unique(maintain_order=True)), []
    for width in dict.fromkeys((table["width"].min(), table["width"].max())):
        rows = table.filter(pl.col("width") == width).sort("value", descending=True, maintain_order=True)
        values = listed([f"*{names[row['model']]}* {row['value']:.2f}" for row in rows.iter_rows(named=True)])
        chance = rows["chance"].mean() if "chance" in rows.columns else None
        parts.append(f"at width {width}: {values}" + ("" if chance is None else f" (chance {abs(chance):.2f})"))
    return f"{quantity}, highest first, {'; '.join(parts)}."
