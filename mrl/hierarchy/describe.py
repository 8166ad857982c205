"""Tables into words: the sentences under the figures, computed from the tables that `mrl.hierarchy.measure` documents.

Every function takes one table of one model and returns one or more sentences, or "" where the table has nothing on it.
A number is called more than chance only from two standard deviations above its chance level.
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from mrl.words import MOST, is_most, listed, percent, readable


def _beyond_chance(row: dict) -> bool:
    return row["value"] > row["chance"] + 2 * (row.get("chance_std") or 0)


def _course(values: Sequence[float]) -> str:
    """Which way a series goes from its first to its last value: rises, falls or stays (within 2 % of its largest)."""
    change, scale = values[-1] - values[0], max(map(abs, values)) or 1
    return "stays level" if abs(change) < 0.02 * scale else "rises" if change > 0 else "falls"


def _strength(agreement: float) -> str:
    """An AMI in a word."""
    return "weak" if agreement < 0.2 else "partial" if agreement < 0.6 else "close"


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
        told = f"{opening}, agreement with {readable(label)} (AMI: 0 by chance, 1 for the same groups) "
        told += f"{_course(values)} and is {_strength(best['value'])} at best: "
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
    told = f"An item and one of its {first['neighbours']} nearest neighbours have {percent(first['value'])} of their "
    told += f"{readable(first['label'])} in common at width {first['width']} and {percent(last['value'])} at width "
    return told + f"{last['width']} (Jaccard index; chance {percent(last['chance'])})."


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
    gone = 1 - bits["value"] / bits["chance"] if bits["chance"] > 0 else 0.0
    told += f"(chance {percent(share['chance'])}). Knowing an item's fine cluster takes away {percent(max(gone, 0.0))} "
    told += f"of the doubt about its coarse one ({bits['value']:.1f} of {bits['chance']:.1f} bits are left)."
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
        told += f"; how all items lie to one another is alike in the first {first['other_width']} dimensions and in "
        told += f"all {wide} to {cka['value'][0]:.2f} (linear CKA: 1 is the same, chance {cka['chance'][0]:.2f})"
    return told + "."


def describe_blocks(table: pl.DataFrame) -> str:
    """From `Hierarchy.blocks`: what can be read from the first block, and what the last one adds."""
    blocks = table.filter(pl.col("part") == "block") if len(table) else table
    if blocks["width"].n_unique() < 2 if len(blocks) else True:
        return ""
    narrow, wide = blocks["width"].min(), blocks["width"].max()
    start = blocks.filter(pl.col("width") == wide)["start"][0]
    first, last, before, after = (
        {(row.get("metric"), row.get("label"), row.get("class")): row for row in rows.iter_rows(named=True)}
        for rows in (
            table.filter(pl.col("part") == part, pl.col("width") == width)
            for part, width in (("block", narrow), ("block", wide), ("prefix", start), ("prefix", wide))
        )
    )
    knows, adds = _read_from(first), _read_from(last)
    said = []
    if knows:
        said.append(f"What the first {narrow} dimensions know: a linear model that sees only them {knows}.")
        said.append(_best_classes(first))
        said.append(f"What the last {wide - start} add: by themselves, such a model {adds}.")
        said.append(_best_classes(last) or _no_classes(last, wide - start))
        said.append(_added(before, after, start))
    if share := first.get(("variance_share", None, None)):
        other = last["variance_share", None, None]
        told = f"The first {narrow} hold {percent(share['value'])} of the items' variance "
        told += f"({percent(share['chance'])} of the dimensions), the last {wide - start} {percent(other['value'])} "
        told += f"({percent(other['chance'])})"
        if rank := first.get(("effective_rank", None, None)):
            other = last["effective_rank", None, None]
            told += f", spread over {rank['value']:.1f} and {other['value']:.1f} directions (effective rank; "
            told += f"{rank['chance']:.1f} and {other['chance']:.1f} if they did not correlate)"
        said.append(told + ".")
    return " ".join(filter(None, said))


def _read_from(rows: dict[tuple, dict]) -> str:
    """What a linear model reads from one block: `explains 12 % of the variance of …, and ranks …`."""
    explained, told_apart = [], []
    for (metric, label, of_class), row in rows.items():
        sure = of_class is None and label is not None and _beyond_chance(row)
        if metric == "r2" and of_class is None:
            what = f"{percent(row['value'])} of the variance of" if sure else "nothing of"
            explained.append(f"{what} {readable(label)}")
        elif metric == "auc" and of_class is None:
            how = percent(row["value"]) if sure else "no more than by chance"
            told_apart.append(f"{how} for {readable(label)} (chance {percent(row['chance'])})")
    said = [f"explains {listed(explained)}"] if explained else []
    if told_apart:
        said.append(
            f"ranks an item that has a label above one that has not in this share of pairs: {listed(told_apart)}"
        )
    return ", and ".join(said)


def _classes(rows: dict[tuple, dict]) -> dict[str, dict]:
    """The rows of the classes of the first label that has any."""
    found = [(label, of_class, row) for (metric, label, of_class), row in rows.items() if metric == "auc" and of_class]
    return {of_class: row for label, of_class, row in found if label == found[0][0]}


def _best_classes(rows: dict[tuple, dict], most: int = 3) -> str:
    best = sorted(_classes(rows).items(), key=lambda item: -item[1]["value"])[:most]
    best = [f"{name} ({percent(row['value'])})" for name, row in best if _beyond_chance(row)]
    return f"It knows best: {listed(best)}." if best else ""


def _no_classes(rows: dict[tuple, dict], size: int) -> str:
    label = next((row["label"] for row in _classes(rows).values()), None)
    return f"The last {size} tell no {readable(label)} apart beyond chance." if label else ""


def _added(before: dict[tuple, dict], after: dict[tuple, dict], start: int) -> str:
    """What all dimensions know beyond those before the last block."""
    gains = [
        f"{readable(label)} from {percent(max(before[key]['value'], 0))} to {percent(max(row['value'], 0))}"
        for key, row in after.items()
        for metric, label, of_class in [key]
        if metric in ("r2", "auc") and of_class is None and key in before
    ]
    if not gains:
        return ""
    told = f"Added to the first {start} they take {listed(gains)}"
    old = _classes(before)
    by_class = {name: row["value"] - old[name]["value"] for name, row in _classes(after).items() if name in old}
    most = max(by_class, key=by_class.get, default=None)
    if most is not None and by_class[most] >= 0.01:
        old_value, new_value = old[most]["value"], _classes(after)[most]["value"]
        told += f", most of all {most} ({percent(old_value)} to {percent(new_value)})"
    return told + "."


def describe_clusters(names: pl.DataFrame, *, clustering: str = "growing", typical: int = 3) -> str:
    """From `Hierarchy.names`: which labels the clusters of the narrowest and the widest level set apart."""
    part = names.filter(pl.col("clustering") == clustering) if len(names) else names
    part = part.drop_nulls("typical") if len(part) else part
    if not len(part):
        return ""
    said, before = [], set()
    for width in sorted({part["width"].min(), part["width"].max()}):
        here = part.filter(pl.col("width") == width)
        found = here.filter(pl.col("share") <= MOST).with_columns(first=pl.col("typical").str.split(" / ").list.first())
        found = found.sort("lift", "items", descending=True).unique("first", keep="first", maintain_order=True)
        top = found.head(typical).iter_rows(named=True)
        words = [f"{row['first']} ({row['lift']:.1f} times its usual share in {row['items']} items)" for row in top]
        said.append(f"At width {width} clusters set apart {listed(words)}." if words else "")
        said.append(_undivided(here))
        new = [word for word in found["first"] if word not in before]
        if before and new:
            said.append(f"No cluster of the narrowest width is typical of {listed(new[:5])}; one of width {width} is.")
        before |= set(found["first"])
    return " ".join(filter(None, said))


def _undivided(clusters: pl.DataFrame) -> str:
    """Of a cluster that holds most items, if there is one."""
    row = next(filter(is_most, clusters.iter_rows(named=True)), None)
    if row is None:
        return ""
    told = f"{percent(row['share'])} of the items lie in one cluster"
    if row.get("popularity_share") is not None:
        told += f", which has {percent(row['popularity_share'])} of the interactions"
    return told + "."


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
        row["cluster"]: "the largest cluster" if is_most(row) else f"“{row['typical'] or row['titles']}”"
        for row in names.filter(pl.col("clustering") == clustering, pl.col("width") == width).iter_rows(named=True)
    }
    main = main.sort("share_out", "cluster")
    loose, firm = main.row(0, named=True), main.row(-1, named=True)
    told = f"From width {width} to width {loose['next_width']}, {name[firm['cluster']]} holds together best "
    told += f"({percent(firm['share_out'])} of its items stay in one cluster) and {name[loose['cluster']]} splits most "
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
