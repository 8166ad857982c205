"""Tables into words: the sentences under the figures, computed from the tables that `mrl.hierarchy.measure` documents.

Every function takes one table of one model and returns one or more sentences, or "" where the table has nothing on it.
A number is called more than chance only from two standard deviations above its chance level.
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from mrl.words import MOST, is_most, listed, percent, readable

SAME = 0.02  # of R² and AUC: a smaller change is called none


def _select(table: pl.DataFrame, **where: object) -> pl.DataFrame:
    """The rows with column=value, by width where they have one; an empty table has no columns to look at."""
    return table.filter(**where).sort("width", maintain_order=True) if len(table) else table


def _first_and_last(table: pl.DataFrame) -> tuple[dict, dict]:
    return table.row(0, named=True), table.row(-1, named=True)


def _at_width(row: dict) -> str:
    return f"{percent(row['value'])} at width {row['width']}"


def _chance(row: dict) -> str:
    return f"chance {percent(row['chance'])}"


def _is_beyond_chance(row: dict) -> bool:
    return row["value"] > row["chance"] + 2 * (row.get("chance_std") or 0)


def _direction(values: Sequence[float]) -> str:
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
    sentences = []
    for clustering, ending in {"fixed": "at every width", "by_width": "as the width grows"}.items():
        part = _select(table, label=label, clustering=clustering)
        ami, purity = part.filter(metric="ami"), part.filter(metric="purity")
        if not len(ami):
            continue
        numbers = ami["clusters"].to_list()
        number = numbers[0] if len(set(numbers)) == 1 else f"{numbers[0]} to {numbers[-1]}"
        first, last = _first_and_last(ami)
        best = ami.row(int(ami["value"].arg_max()), named=True)
        text = f"With {number} clusters {ending}, agreement with {readable(label)} (AMI: 0 by chance, 1 for the same "
        text += f"groups) {_direction(ami['value'].to_list())} and is {_strength(best['value'])} at best: "
        text += f"{first['value']:.2f} at width {first['width']}, {last['value']:.2f} at width {last['width']}"
        if best["width"] not in (first["width"], last["width"]):
            text += f", most at width {best['width']} ({best['value']:.2f})"
        narrow, wide = _first_and_last(purity)
        text += f"; {percent(narrow['value'])} of items carry the most frequent label of their cluster at width "
        text += f"{narrow['width']} ({_chance(narrow)}), {_at_width(wide)} ({_chance(wide)})."
        sentences.append(text)
        if not any(_is_beyond_chance(row) for row in ami.iter_rows(named=True)):
            sentences.append("None of this is beyond chance.")
    return " ".join(sentences)


def describe_neighbours(table: pl.DataFrame, *, label: str | None = None) -> str:
    """From `Hierarchy.neighbours`: how much an item's neighbours share its labels."""
    if not len(table):
        return ""
    first, last = _first_and_last(_select(table, label=label or table["label"][0]))
    text = f"An item and one of its {first['neighbours']} nearest neighbours have {percent(first['value'])} of their "
    text += f"{readable(first['label'])} in common at width {first['width']} and {_at_width(last)} "
    return text + f"(Jaccard index; {_chance(last)})."


def describe_nesting(table: pl.DataFrame, *, clustering: str = "by_width") -> str:
    """From `Hierarchy.nesting`: how far the clusters of the widest level, and of each next one, lie within others."""
    part = _select(table, clustering=clustering)
    if not len(part):
        return ""
    narrow, wide = part["other_width"].min(), part["width"].max()
    steps = part.filter(metric="share").group_by("width", maintain_order=True)
    steps = steps.agg(pl.all().sort_by("other_width").last())  # each width with the one before it
    weakest = steps.row(int(steps["value"].arg_min()), named=True)
    pair = part.filter(width=wide, other_width=narrow)
    share, bits = (pair.row(by_predicate=pl.col("metric") == metric, named=True) for metric in ("share", "entropy"))
    explained = max(1 - bits["value"] / bits["chance"], 0.0) if bits["chance"] > 0 else 0.0
    text = f"{percent(share['value'])} of the items of a cluster at width {wide} lie in one cluster of width {narrow} "
    text += f"({_chance(share)}). Knowing an item's fine cluster takes away {percent(explained)} of the doubt about "
    text += f"its coarse one ({bits['value']:.1f} of {bits['chance']:.1f} bits are left)."
    if len(steps) > 1:
        text += f" From one width to the next the weakest nesting is {weakest['other_width']} to {weakest['width']} "
        text += f"({percent(weakest['value'])}, {_chance(weakest)})."
    return text


def describe_similarity(table: pl.DataFrame) -> str:
    """From `Hierarchy.similarity`: how much of the widest level's neighbourhoods and geometry narrower ones have."""
    overlap = _select(table, metric="overlap")
    if not len(overlap):
        return ""
    wide = overlap["width"].max()
    kept = overlap.filter(pl.col("width") == wide, pl.col("other_width") < wide).sort("other_width")
    if not len(kept):
        return ""
    first, last = _first_and_last(kept)
    narrow = first["other_width"]
    text = f"Of an item's {first['neighbours']} nearest at width {wide}, {percent(first['value'])} are among its "
    text += f"nearest at width {narrow} already"
    if len(kept) > 1:
        text += f" and {percent(last['value'])} at width {last['other_width']}"
    text += f" ({_chance(first)})"
    for row in table.filter(metric="cka", width=wide, other_width=narrow).iter_rows(named=True):
        text += f"; how all items lie to one another is alike in the first {narrow} dimensions and in all {wide} to "
        text += f"{row['value']:.2f} (linear CKA: 1 is the same, chance {row['chance']:.2f})"
    return text + "."


def describe_blocks(table: pl.DataFrame) -> str:
    """From `Hierarchy.blocks`: what can be read from the first block, and what the last one adds."""
    blocks = _select(table, part="block")
    if not len(blocks) or blocks["width"].n_unique() < 2:
        return ""
    table = table.with_columns(pl.lit(None).alias(name) for name in ("label", "class") if name not in table.columns)
    narrow, wide = blocks["width"].min(), blocks["width"].max()
    start = blocks.filter(width=wide)["start"][0]
    ends = (("block", narrow), ("block", wide), ("prefix", start), ("prefix", wide))
    first, last, before, after = (table.filter(part=part, width=width) for part, width in ends)
    sentences = []
    if knowledge := _describe_probes(first):
        sentences += [
            _describe_order(blocks),
            f"A linear model that sees only the first {narrow} dimensions {knowledge}.",
            _best_classes(first),
            f"One that sees only the last {wide - start} {_describe_probes(last)}.",
            _best_classes(last) or _no_classes(last, wide - start),
            _describe_gain(before, after, start),
        ]
        if (_labels(first)["metric"] == "auc").any():
            text = "(AUC: how often an item that has the label ranks above one that has not.)"
            sentences.insert(3, text)
    shape, last_shape = ({row["metric"]: row for row in rows.iter_rows(named=True)} for rows in (first, last))
    if share := shape.get("variance_share"):
        last_share = last_shape["variance_share"]
        text = f"The first {narrow} hold {percent(share['value'])} of the items' variance "
        text += f"({percent(share['chance'])} of the dimensions), the last {wide - start} "
        text += f"{percent(last_share['value'])} ({percent(last_share['chance'])})"
        if rank := shape.get("effective_rank"):
            last_rank = last_shape["effective_rank"]
            text += f", spread over {rank['value']:.1f} and {last_rank['value']:.1f} directions (effective rank; "
            text += f"{rank['chance']:.1f} and {last_rank['chance']:.1f} if they did not correlate)"
        sentences.append(text + ".")
    return " ".join(filter(None, sentences))


def _labels(rows: pl.DataFrame) -> pl.DataFrame:
    """The probes of whole labels (the mean over their classes)."""
    return rows.filter(pl.col("metric").is_in(["r2", "auc"]), pl.col("class").is_null())


def _classes(rows: pl.DataFrame) -> pl.DataFrame:
    """The probes of the classes of the first label that has any."""
    rows = rows.filter(pl.col("metric") == "auc", pl.col("class").is_not_null())
    return rows.filter(pl.col("label") == pl.col("label").first())


def _describe_probes(rows: pl.DataFrame) -> str:
    """What a linear model reads from one block: `explains 12 % of the variance of …; it tells genres apart with …`."""
    explained, ranked = [], []
    for row in _labels(rows).iter_rows(named=True):
        known, label = _is_beyond_chance(row), readable(row["label"])
        if row["metric"] == "r2":
            explained.append(f"{_quality(row)} of the variance of {label}" if known else f"nothing of {label}")
        elif known:
            ranked.append(f"tells {label} apart with {_quality(row)} (chance {row['chance']:.2f})")
        else:
            ranked.append(f"tells {label} apart no better than chance")
    return ", and ".join(filter(None, [f"explains {listed(explained)}" if explained else "", listed(ranked)]))


def _quality(row: dict) -> str:
    """The value of a probe as its figure has it: R² as a share of the variance, AUC as it is."""
    value = max(row["value"], 0)
    return percent(value) if row["metric"] == "r2" else f"AUC {value:.2f}"


def _best_classes(rows: pl.DataFrame, most: int = 3) -> str:
    best = _classes(rows).sort("value", descending=True, maintain_order=True).head(most).iter_rows(named=True)
    words = [f"{row['class']} ({row['value']:.2f})" for row in best if _is_beyond_chance(row)]
    return f"It knows best: {listed(words)}." if words else ""


def _no_classes(rows: pl.DataFrame, size: int) -> str:
    classes = _classes(rows)
    return f"The last {size} tell no {readable(classes['label'][0])} apart beyond chance." if len(classes) else ""


def _describe_gain(before: pl.DataFrame, after: pl.DataFrame, start: int) -> str:
    """What all dimensions know beyond those before the last block."""
    options = {"suffix": "_before", "maintain_order": "left"}
    changes: dict[str, list[str]] = {"raise": [], "lower": [], "leave": []}
    for row in _labels(after).join(_labels(before), on=["metric", "label"], **options).iter_rows(named=True):
        gain = max(row["value"], 0) - max(row["value_before"], 0)
        old, new = _quality(row | {"value": row["value_before"]}), _quality(row)
        if abs(gain) < SAME:
            changes["leave"].append(f"{readable(row['label'])} as it was ({new})")
        else:
            words = f"{readable(row['label'])} from {old} to {new.removeprefix('AUC ')}"
            changes["raise" if gain > 0 else "lower"].append(words)
    gains = [f"{verb} {listed(parts)}" for verb, parts in changes.items() if parts]
    if not gains:
        return ""
    text = f"Added to the first {start} they {listed(gains)}"
    gain = pl.col("value") - pl.col("value_before")
    classes = _classes(after).join(_classes(before), on="class", **options).filter(gain >= SAME)
    for row in classes.sort(gain, descending=True, maintain_order=True).head(1).iter_rows(named=True):
        text += f"; {row['class']} gains most ({row['value_before']:.2f} to {row['value']:.2f})"
    return text + "."


def _describe_order(blocks: pl.DataFrame) -> str:
    """Which block knows each label best: by the dots that `draw_block_probes` draws, and whether coarse comes first."""
    rows, in_order, against = _labels(blocks), [], []
    first = rows["width"].min()
    for (label,), part in rows.group_by("label", maintain_order=True):
        best = part.row(int(part["value"].arg_max()), named=True)
        if not _is_beyond_chance(best):
            continue
        if best["width"] == first:
            in_order.append(readable(label))
            continue
        at_first = _quality(part.filter(width=first).row(0, named=True))
        words = f"{readable(label)} best from dimensions {best['start'] + 1} to {best['width']} "
        against.append(words + f"({_quality(best)}; the first {first}: {at_first.removeprefix('AUC ')})")
    parts = [f"In keeping with coarse first, the first {first} tell {listed(in_order)} best."] if in_order else []
    parts += [f"Against coarse first, a model of one block reads {listed(against)}."] if against else []
    return " ".join(parts)


def describe_clusters(names: pl.DataFrame, *, clustering: str = "by_width", typical: int = 3) -> str:
    """From `Hierarchy.names`: which labels the clusters of the narrowest and the widest level set apart."""
    part = _select(names, clustering=clustering)
    part = part.drop_nulls("typical") if len(part) else part
    if not len(part):
        return ""
    sentences, before = [], set()
    for width in sorted({part["width"].min(), part["width"].max()}):
        clusters = part.filter(width=width)
        first_label = pl.col("typical").str.split(" / ").list.first()
        named = clusters.filter(pl.col("share") <= MOST).with_columns(first=first_label)
        named = named.sort("lift", "items", descending=True).unique("first", keep="first", maintain_order=True)
        words = [
            f"{row['first']} ({row['lift']:.1f} times its usual share in {row['items']} items)"
            for row in named.head(typical).iter_rows(named=True)
        ]
        sentences.append(f"At width {width} clusters set apart {listed(words)}." if words else "")
        sentences.append(_describe_largest(clusters))
        # of all its labels: a cluster's name shows more than the first
        typical_here = clusters.select(pl.col("typical").str.split(" / ").explode())["typical"].to_list()
        new = [label for label in named["first"] if label not in before]
        if before and new:
            verb = "is" if len(new[:5]) == 1 else "are"
            text = (
                f"{listed(new[:5])} {verb} typical of a cluster of width {width}, and of none of the narrowest width."
            )
            sentences.append(text)
        before |= set(typical_here)
    return " ".join(filter(None, sentences))


def _describe_largest(clusters: pl.DataFrame) -> str:
    """Of a cluster that holds most items, if there is one."""
    row = next(filter(is_most, clusters.iter_rows(named=True)), None)
    if row is None:
        return ""
    text = f"{percent(row['share'])} of the items lie in one cluster"
    if row.get("popularity_share") is not None:
        text += f", which has {percent(row['popularity_share'])} of the interactions"
    return text + "."


def describe_flows(flows: pl.DataFrame, names: pl.DataFrame, *, clustering: str = "by_width") -> str:
    """From `Hierarchy.flows` and `names`: which cluster of the narrowest width splits most, which holds together."""
    part = _select(flows, clustering=clustering)
    if not len(part):
        return ""
    width = part["width"].min()
    clusters = part.filter(width=width).group_by("cluster", maintain_order=True)
    clusters = clusters.agg(pl.col("share_out").max(), pl.len(), pl.first("next_width")).sort("share_out", "cluster")
    if len(clusters) < 2:
        return ""
    name = {
        row["cluster"]: "the largest cluster" if is_most(row) else f"“{row['typical'] or row['titles']}”"
        for row in names.filter(clustering=clustering, width=width).iter_rows(named=True)
    }
    split, stable = _first_and_last(clusters)
    text = f"From width {width} to width {split['next_width']}, {name[stable['cluster']]} holds together best "
    text += f"({percent(stable['share_out'])} of its items stay in one cluster) and {name[split['cluster']]} splits "
    return text + f"most (over {split['len']} clusters, {percent(split['share_out'])} in the largest)."


def describe_list(table: pl.DataFrame) -> str:
    """From `list_neighbours` or `list_top_k`: what of the widest list was there at narrower widths, and what is new."""
    if not len(table):
        return ""
    *narrower, widest = table["width"].unique().sort().to_list()
    last, query = table.filter(width=widest), table["query"][0]
    items = {width: set(table.filter(width=width)["item"]) for width in narrower}
    if not narrower:
        return f"Nearest to {query} at width {widest}: {listed(last['title'].head(3).to_list())}."
    entries = [(row["item"], f"“{row['title']}”") for row in last.iter_rows(named=True)]  # titles may have commas
    counts = [f"{sum(item in at_width for item, _ in entries)} at width {w}" for w, at_width in items.items()]
    always = [title for item, title in entries if all(item in at_width for at_width in items.values())]
    new = [title for item, title in entries if not any(item in at_width for at_width in items.values())]
    text = f"{query}: of the {len(entries)} listed at width {widest}, there are {listed(counts)}."
    text += f" At every width: {listed(always[:3])}." if always else " None is there at every width."
    return text + (f" Only at width {widest}: {listed(new[:3])}." if new else "")


def describe_recovery(table: pl.DataFrame, *, enough: float = 0.95) -> str:
    """From `Hierarchy.recovery`: the width that recovers each true depth best, and the narrowest nearly as good.

    enough: the share of the best AMI that counts as nearly as good.
    """
    sentences = []
    for (label,), rows in _select(table, metric="ami").group_by("label", maintain_order=True) if len(table) else ():
        best, depth = rows.row(int(rows["value"].arg_max()), named=True), readable(label).capitalize()
        if not _is_beyond_chance(best):
            sentences.append(f"{depth} is recovered at no width (AMI at most {best['value']:.2f}).")
            continue
        narrow = rows.filter(pl.col("value") >= enough * best["value"]).row(0, named=True)
        text = f"{depth} ({best['clusters']} clusters) is recovered best at width {best['width']} "
        text += f"(AMI {best['value']:.2f})"
        if narrow["width"] != best["width"]:
            text += f"; width {narrow['width']} is within {percent(1 - enough)} of it ({narrow['value']:.2f})"
        sentences.append(text + ".")
    return " ".join(sentences)
