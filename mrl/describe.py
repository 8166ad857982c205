"""Tables into words: the sentences under the figures, computed from the tables that `mrl.hierarchy` documents.

Every function takes one table of one model and returns one or more sentences, or "" where the table has nothing on it.
A number is called more than chance only from two standard deviations above its chance level.
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

READABLE = {"popularity": "popularity (log)", "year": "release year", "genres": "genres"}


def percent(value: float) -> str:
    """A share as words: `62 %`, `0.6 %` where it is small."""
    return f"{100 * value:.1f} %" if 0 < abs(value) < 0.0095 else f"{100 * value:.0f} %"


def listed(words: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]])) if words else ""


def readable(label: str) -> str:
    """A label's column name as a reader would say it: `depth_1` is `true depth 1`."""
    return READABLE.get(label, label.replace("depth_", "true depth "))


def _beyond_chance(row: dict) -> bool:
    return row["value"] > row["chance"] + 2 * (row.get("chance_std") or 0)


def _course(values: Sequence[float]) -> str:
    """Which way a series goes from its first to its last value: rises, falls or stays (within 2 % of its largest)."""
    change, scale = values[-1] - values[0], max(map(abs, values)) or 1
    return "stays level" if abs(change) < 0.02 * scale else "rises" if change > 0 else "falls"


def describe_agreement(table: pl.DataFrame, *, label: str | None = None) -> str:
    """From `Hierarchy.agreement`: how AMI and purity go with the width, for both numbers of clusters."""
    if not len(table):
        return ""
    label = label or table["label"][0]
    said = []
    words = {"same": "With {n} clusters at every width", "growing": "With {n} clusters as the width grows"}
    for clustering, opening in words.items():
        part = table.filter(pl.col("label") == label, pl.col("clustering") == clustering)
        ami, purity = (part.filter(pl.col("metric") == metric).sort("width") for metric in ("ami", "purity"))
        if not len(ami):
            continue
        numbers = ami["clusters"].to_list()
        opening = opening.format(n=numbers[0] if len(set(numbers)) == 1 else f"{numbers[0]} to {numbers[-1]}")
        values, first, last = ami["value"].to_list(), ami.row(0, named=True), ami.row(-1, named=True)
        best = ami.row(int(ami["value"].arg_max()), named=True)
        told = f"{opening}, agreement with {readable(label)} (AMI, chance 0) {_course(values)}: "
        told += f"{first['value']:.2f} at width {first['width']}, {last['value']:.2f} at width {last['width']}"
        if best["width"] not in (first["width"], last["width"]):
            told += f", most at width {best['width']} ({best['value']:.2f})"
        near, far = purity.row(0, named=True), purity.row(-1, named=True)
        told += f"; {percent(near['value'])} of items carry the most frequent label of their cluster at width "
        told += f"{near['width']} (chance {percent(near['chance'])}), {percent(far['value'])} at width {far['width']} "
        said.append(told + f"(chance {percent(far['chance'])}).")
        if not any(_beyond_chance(row) for row in ami.iter_rows(named=True)):
            said.append("None of this is beyond chance.")
    return " ".join(said)


def describe_neighbours(table: pl.DataFrame, *, label: str | None = None) -> str:
    """From `Hierarchy.neighbours`: how much an item's neighbours share its labels."""
    if not len(table):
        return ""
    part = table.filter(pl.col("label") == (label or table["label"][0])).sort("width")
    first, last = part.row(0, named=True), part.row(-1, named=True)
    told = f"An item and its {first['neighbours']} nearest neighbours share {readable(first['label'])} with a Jaccard "
    told += f"index of {first['value']:.2f} at width {first['width']} and {last['value']:.2f} at width {last['width']} "
    return told + f"(chance {last['chance']:.2f})."


def describe_nesting(table: pl.DataFrame, *, clustering: str = "growing") -> str:
    """From `Hierarchy.nesting`: how far the clusters of the widest level, and of each next one, lie within others."""
    part = table.filter(pl.col("clustering") == clustering) if len(table) else table
    if not len(part):
        return ""
    narrow, wide = part["other_width"].min(), part["width"].max()
    steps = part.filter(pl.col("metric") == "share").sort("width").group_by("width", maintain_order=True)
    steps = steps.agg(pl.all().sort_by("other_width").last())  # each width with the one before it
    weakest = steps.row(int(steps["value"].arg_min()), named=True)
    ends = part.filter(pl.col("width") == wide, pl.col("other_width") == narrow)
    share, bits = (ends.row(by_predicate=pl.col("metric") == metric, named=True) for metric in ("share", "entropy"))
    told = f"{percent(share['value'])} of the items of a cluster at width {wide} lie in one cluster of width {narrow} "
    told += f"(chance {percent(share['chance'])}); knowing the fine cluster leaves {bits['value']:.1f} of "
    told += f"{bits['chance']:.1f} bits about the coarse one."
    if len(steps) > 1:
        told += f" From one width to the next the weakest nesting is {weakest['other_width']} to {weakest['width']} "
        told += f"({percent(weakest['value'])}, chance {percent(weakest['chance'])})."
    return told


def describe_similarity(table: pl.DataFrame) -> str:
    """From `Hierarchy.similarity`: how much of the widest level's neighbourhoods and geometry narrower ones have."""
    overlap = table.filter(pl.col("metric") == "overlap") if len(table) else table
    if not len(overlap):
        return ""
    wide = overlap["width"].max()
    kept = overlap.filter(pl.col("width") == wide, pl.col("other_width") < wide).sort("other_width")
    if not len(kept):
        return ""
    first, last = kept.row(0, named=True), kept.row(-1, named=True)
    told = (
        f"Of an item's {first['neighbours']} nearest at width {wide}, {percent(first['value'])} are among its nearest "
    )
    told += f"at width {first['other_width']} already"
    if len(kept) > 1:
        told += f" and {percent(last['value'])} at width {last['other_width']}"
    told += f" (chance {percent(first['chance'])})"
    pair = (pl.col("width") == wide) & (pl.col("other_width") == first["other_width"])
    cka = table.filter(pl.col("metric") == "cka", pair)
    if len(cka):
        told += f"; the first {first['other_width']} dimensions hold the geometry of all {wide} with a linear CKA of "
        told += f"{cka['value'][0]:.2f} (chance {cka['chance'][0]:.2f})"
    return told + "."


def describe_blocks(table: pl.DataFrame) -> str:
    """From `Hierarchy.blocks`: what can be read from the first block, and what from the last."""
    part = table.filter(pl.col("part") == "block") if len(table) else table
    if part["width"].n_unique() < 2 if len(part) else True:
        return ""
    narrow, wide = part["width"].min(), part["width"].max()
    size = wide - part.filter(pl.col("width") == wide)["start"][0]

    def ends(metric: str, label: str | None = None) -> tuple[dict, dict] | None:
        """The rows of the first and the last block."""
        rows = part.filter(pl.col("metric") == metric)
        rows = rows if label is None else rows.filter(pl.col("label") == label)
        rows = rows.filter(pl.col("class").is_null()) if "class" in rows.columns else rows
        rows = rows.sort("width")
        return (rows.row(0, named=True), rows.row(-1, named=True)) if len(rows) else None

    said = []
    labels = part["label"].drop_nulls().unique(maintain_order=True).to_list() if "label" in part.columns else []
    for label in labels:
        if found := ends("r2", label):
            first, last = (percent(max(row["value"], 0)) if _beyond_chance(row) else "nothing" for row in found)
            what = "of the variance of " if first != "nothing" else "of "
            said.append(f"explain {first} {what}{readable(label)} (last {size}: {last})")
        elif found := ends("auc", label):
            areas = [f"of {row['value']:.2f}" if _beyond_chance(row) else "at chance" for row in found]
            told = f"tell {readable(label)} apart with a mean ROC-AUC {areas[0]} (last {size}: "
            said.append(told + f"{areas[1].removeprefix('of ')}; chance {found[0]['chance']:.2f})")
    if found := ends("variance_share"):
        said.append(
            f"hold {percent(found[0]['value'])} of the items' variance (last {size}: {percent(found[1]['value'])})"
        )
    if found := ends("effective_rank"):
        said.append(f"have an effective rank of {found[0]['value']:.1f} (last {size}: {found[1]['value']:.1f})")
    told = f"The first {narrow} dimensions {listed(said)}." if said else ""
    return " ".join(filter(None, [told, _describe_classes(part, narrow, wide, size)]))


def _describe_classes(part: pl.DataFrame, narrow: int, wide: int, size: int) -> str:
    """Which labels are read best from the first block, and which the last block knows better than the first."""
    if "class" not in part.columns:
        return ""
    rows = part.filter(pl.col("metric") == "auc", pl.col("class").is_not_null())
    if not len(rows):
        return ""
    rows = rows.filter(pl.col("label") == rows["label"][0])
    best = rows.filter(pl.col("width") == narrow).sort("value", descending=True).head(3)
    best = [row for row in best.iter_rows(named=True) if _beyond_chance(row)]
    late = rows.filter(pl.col("width") == wide).sort("value", descending=True).head(3)
    late = [row for row in late.iter_rows(named=True) if _beyond_chance(row)]
    said = []
    if best:
        names = listed([f"{row['class']} ({row['value']:.2f})" for row in best])
        said.append(f"Read best from the first {narrow}: {names}.")
    if late:
        names = listed([f"{row['class']} ({row['value']:.2f})" for row in late])
        said.append(f"Read best from the last {size}: {names}.")
    else:
        said.append(f"The last {size} tell no {readable(rows['label'][0])} apart beyond chance.")
    return " ".join(said)


def describe_clusters(names: pl.DataFrame, *, clustering: str = "growing", typical: int = 3) -> str:
    """From `Hierarchy.names`: which labels the clusters of the narrowest and the widest level set apart."""
    part = names.filter(pl.col("clustering") == clustering) if len(names) else names
    part = part.drop_nulls("typical") if len(part) else part
    if not len(part):
        return ""
    said, before = [], set()
    for width in sorted({part["width"].min(), part["width"].max()}):
        found = part.filter(pl.col("width") == width).with_columns(
            first=pl.col("typical").str.split(" / ").list.first()
        )
        found = found.sort("lift", "items", descending=True).unique("first", keep="first", maintain_order=True)
        top = list(found.head(typical).iter_rows(named=True))
        words = [f"{row['first']} ({row['lift']:.1f} times its usual share in {row['items']} items)" for row in top]
        if len(words) == 1:
            said.append(f"Clusters at width {width} set apart {words[0]}.")
        else:
            said.append(f"Clusters at width {width} separate {words[0]} from {listed(words[1:])}.")
        new = [word for word in found["first"] if word not in before]
        if before and new:
            said.append(f"First typical of a cluster at width {width}, not at the narrowest: {listed(new[:5])}.")
        before |= set(found["first"])
    return " ".join(said)


def describe_flows(flows: pl.DataFrame, names: pl.DataFrame, *, clustering: str = "growing") -> str:
    """From `Hierarchy.flows` and `names`: which cluster of the narrowest width splits most, which holds together."""
    part = flows.filter(pl.col("clustering") == clustering) if len(flows) else flows
    if not len(part):
        return ""
    width = part["width"].min()
    part = part.filter(pl.col("width") == width)
    main = part.group_by("cluster", maintain_order=True).agg(
        pl.col("share_out").max(), pl.len(), pl.first("next_width")
    )
    if len(main) < 2:
        return ""
    name = {
        row["cluster"]: row["typical"] or row["titles"]
        for row in names.filter(pl.col("clustering") == clustering, pl.col("width") == width).iter_rows(named=True)
    }
    main = main.sort("share_out", "cluster")
    loose, firm = main.row(0, named=True), main.row(-1, named=True)
    told = f"From width {width} to width {loose['next_width']}, “{name[firm['cluster']]}” holds together best "
    told += (
        f"({percent(firm['share_out'])} of its items stay in one cluster) and “{name[loose['cluster']]}” splits most "
    )
    return told + f"(over {loose['len']} clusters, {percent(loose['share_out'])} in the largest)."


def describe_list(table: pl.DataFrame) -> str:
    """From `item_neighbours` or `user_top_k`: what of the widest list was there at narrower widths, and what is new."""
    if not len(table):
        return ""
    widths = table["width"].unique().sort().to_list()
    last = table.filter(pl.col("width") == widths[-1])
    final, query = set(last["item"]), table["query"][0]
    if len(widths) == 1:
        return f"Nearest to {query} at width {widths[0]}: {listed(last['title'].head(3).to_list())}."
    shared = [len(final & set(table.filter(pl.col("width") == width)["item"])) for width in widths[:-1]]
    counts = listed([f"{count} at width {width}" for width, count in zip(widths, shared, strict=False)])
    told = f"{query}: of the {len(final)} listed at width {widths[-1]}, there are {counts}."
    always = set.intersection(*(set(table.filter(pl.col("width") == width)["item"]) for width in widths))
    titles = pl.format("“{}”", "title")  # many a title has a comma of its own
    kept = last.filter(pl.col("item").is_in(list(always))).select(titles).to_series().to_list()
    earlier = set(table.filter(pl.col("width") < widths[-1])["item"])
    new = last.filter(~pl.col("item").is_in(list(earlier))).select(titles).to_series().to_list()
    told += f" At every width: {listed(kept[:3])}." if kept else " None is there at every width."
    return told + (f" Only at width {widths[-1]}: {listed(new[:3])}." if new else "")


def describe_recovery(table: pl.DataFrame, *, enough: float = 0.95) -> str:
    """From `Hierarchy.recovery`: the width that recovers each true depth best, and the narrowest nearly as good.

    enough: the share of the best AMI that counts as nearly as good.
    """
    ami = table.filter(pl.col("metric") == "ami") if len(table) else table
    if not len(ami):
        return ""
    said = []
    for label in ami["label"].unique(maintain_order=True).to_list():
        rows = ami.filter(pl.col("label") == label).sort("width")
        best = rows.row(int(rows["value"].arg_max()), named=True)
        if not _beyond_chance(best):
            said.append(f"{readable(label).capitalize()} is recovered at no width (AMI at most {best['value']:.2f}).")
            continue
        narrow = rows.filter(pl.col("value") >= enough * best["value"]).row(0, named=True)
        told = (
            f"{readable(label).capitalize()} ({best['clusters']} clusters) is recovered best at width {best['width']} "
        )
        told += f"(AMI {best['value']:.2f})"
        if narrow["width"] != best["width"]:
            told += f"; width {narrow['width']} is within {percent(1 - enough)} of it ({narrow['value']:.2f})"
        said.append(told + ".")
    return " ".join(said)
