"""The story of a run: the strongest baseline of each width is named; each sentence is of the table it stands by."""

from __future__ import annotations

import re

import polars as pl

from mrl.report.headlines import (
    describe_choice,
    describe_strongest,
    strongest_baselines,
    table_by_width,
    table_of_costs,
)

WIDTHS = (4, 8, 64)


def recall_table(**models: tuple[float, ...]) -> pl.DataFrame:
    """Values a width, or one of a model without widths."""
    rows = [
        {"model": model.replace("_", "-"), "width": width, "metric": "recall", "k": 20, "value": value}
        for model, values in models.items()
        for width, value in zip(WIDTHS if len(values) > 1 else (None,), values, strict=True)
    ]
    return pl.DataFrame(rows, schema_overrides={"width": pl.Int64})


MIXED = recall_table(default=(0.3, 0.35, 0.4), bpr_rotated=(0.31, 0.2, 0.2), ials=(0.2, 0.34, 0.39), ease=(0.36,))


def test_the_strongest_baseline_is_picked_at_each_width_and_one_without_widths_counts_at_all():
    table = strongest_baselines(MIXED, "default")
    assert table["baseline"].to_list() == ["ease", "ease", "ials"]
    assert table["vectors"].to_list() == ["bpr-rotated", "ials", "ials"]


def test_the_headline_names_every_loss_and_the_strongest_baseline():
    assert describe_strongest(MIXED, "default") == (
        "**default recipe has the highest Recall@20 at width 64** (strongest baseline: *iALS, rotated* .3900 against "
        ".4000 at 64). **A baseline is ahead at widths 4 and 8**: *EASE* .3600 against .3000 at 4 and .3500 at 8. "
        "Beside the baselines that have vectors default recipe is above the strongest at width 8 (*iALS, rotated* "
        ".3400 against .3500 at 8) and below it at width 4 (*BPR, rotated* .3100 against .3000 at 4)."
    )
    ahead = describe_strongest(recall_table(default=(0.3, 0.4, 0.5), ials=(0.2, 0.3, 0.4)), "default")
    assert "has the highest Recall@20 at every width**" in ahead and "ahead" not in ahead
    behind = describe_strongest(recall_table(default=(0.1, 0.1, 0.1), ials=(0.2, 0.3, 0.4)), "default")
    assert behind.startswith("**A baseline is ahead at every width**") and "highest" not in behind
    assert describe_strongest(recall_table(default=(0.1, 0.1, 0.1)), "default") == ""


def test_the_best_of_each_column_is_bold_and_a_loss_has_a_mark_of_its_own():
    compared = pl.DataFrame(
        {"metric": "recall", "other": other, "width": width, "difference": difference, "p_holm": 0.001}
        for other, width, difference in (("ease", 4, -0.06), ("ials", 64, 0.01), ("bpr-rotated", 64, 0.2))
    )
    text = table_by_width(MIXED, "default", compared)
    rows = {cells[0]: cells[1:] for line in text.splitlines() if (cells := re.findall(r"[^|]+", line))[1:]}
    rows = {name.strip(): [cell.strip() for cell in cells] for name, cells in rows.items()}
    assert rows["default recipe"] == [".3000▼†", ".3500▼", r"**.4000**\*"]
    assert rows["EASE (no width)"] == ["**.3600**", "**.3600**", ".3600"]
    assert text.count("**") == 2 * len(WIDTHS)
    legend = text.splitlines()[-1]
    assert "▼ another row is higher." in legend and r"\* significantly above and † significantly below" in legend
    plain = table_by_width(recall_table(default=(0.3, 0.4, 0.5), ials=(0.2, 0.3, 0.4)), "default", pl.DataFrame())
    assert plain.splitlines()[-1] == "Bold: the best of its column."


def test_the_width_to_take_is_the_narrowest_that_keeps_enough():
    rows = pl.DataFrame({"width": WIDTHS, "value": (0.2, 0.39, 0.4), "kept": (0.5, 0.975, 1.0)})
    rows = rows.with_columns(bytes_per_item=4 * pl.col("width"), multiply_adds=1000 * pl.col("width"))
    assert describe_choice(rows, "on validation, 8 dimensions keep 97 %") == (
        "**Take width 8**, the narrowest that on test keeps 95 % of the Recall@20 of width 64: it keeps 98 % in 12 % "
        "of the memory (32 of 256 bytes an item). The training itself says: on validation, 8 dimensions keep 97 %."
    )
    weak = rows.with_columns(kept=pl.Series((0.5, 0.9, 1.0)))
    assert describe_choice(weak) == "**Take width 64**: on test no narrower one keeps 95 % of its Recall@20."
    assert table_of_costs(rows).splitlines()[-1] == "| 64 | .4000 | 100 % | 256 | 64,000 |"
