"""What a model recommends at each width, to whom it is of use, and what it costs: tidy tables, and words for them.

Accuracy by the activity of the user and by the popularity of the item; coverage, Gini index, novelty and popularity of
what is recommended; the share of the full width's accuracy that a prefix keeps; the oracle width of each user, as in
Matryoshka Representation Learning (Kusupati et al., NeurIPS 2022); bytes and multiply-adds.

Everything here is read off the test set and none of it chooses anything. Lists leave out what a tested model has seen
(`known_positives`), ties fall by item id, and the users are those with test items, all as in `mrl.evaluation.evaluate`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import polars as pl
import torch
from torch import Tensor

from mrl.data import Interactions, Positives
from mrl.errors import RunError
from mrl.evaluation import VectorRanking
from mrl.words import listed, percent

HEAD, MIDDLE = 0.2, 0.3  # shares of the items: the most popular fifth, the next three tenths; the tail is the rest
CLASSES = ("head", "middle", "tail")
ACTIVITY, POPULARITY = "user activity", "item popularity"
FLOAT = 4  # bytes of a number in a stored vector


def known_positives(data: Interactions) -> Positives:
    """What a tested model has seen: train, and validation too, unless that is the test set (protocol `paper`)."""
    return data.train if data.valid == data.test else data.merge_valid().train


def group_by_activity(data: Interactions) -> pl.DataFrame:
    """Quartiles of the users with test items by their number of known items: columns user (row), group, in order.

    Users with the same number share a group, the one that the lowest of them falls into, so groups can differ in size
    and, with many equal numbers, be fewer than four.
    """
    users = data.test.counts.nonzero()[:, 0].cpu().numpy()
    counts = known_positives(data).counts.cpu().numpy()[users]
    quartile = np.searchsorted(np.quantile(counts, (0.25, 0.5, 0.75), method="inverted_cdf"), counts)
    table = pl.DataFrame({"user": users.astype(np.int32), "count": counts, "quartile": quartile + 1})
    low, high = (getattr(pl.col("count"), end)().over("quartile").cast(pl.String) for end in ("min", "max"))
    span = pl.when(low == high).then(low).otherwise(pl.format("{}–{}", low, high))
    return table.select("user", group=pl.format("Q{} ({} items)", "quartile", span)).sort("group", "user")


def accuracy_by_activity(per_user: pl.DataFrame, data: Interactions) -> pl.DataFrame:
    """Every metric by activity quartile: columns grouping, group, width, metric, k, users, value.

    per_user: `Evaluation.per_user`.
    """
    return (
        per_user.join(group_by_activity(data), on="user")
        .group_by("group", "width", "metric", "k")
        .agg(users=pl.len().cast(pl.Int64), value=pl.col("value").mean())
        .sort("metric", "group", "width")
        .select(pl.lit(ACTIVITY).alias("grouping"), "group", "width", "metric", "k", "users", "value")
    )


def classify_popularity(counts: np.ndarray) -> np.ndarray:
    """(I,) interactions an item → index into CLASSES: the HEAD of the items, the next MIDDLE, the tail; ties by row."""
    edges = np.ceil(np.array((HEAD, HEAD + MIDDLE)) * len(counts) - 1e-9)
    classes = np.empty(len(counts), dtype=np.int64)
    classes[np.argsort(-counts, kind="stable")] = np.searchsorted(edges, np.arange(len(counts)), side="right")
    return classes


def recommend(
    users: Tensor, items: Tensor, data: Interactions, *, widths: Sequence[int], k: int = 20
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (user rows (B,), items (L, B, k), -1 where fewer are left) over the users with test items, in chunks."""
    if (len(users), len(items)) != (data.num_users, data.num_items):
        raise RunError(
            f"vectors of {len(users)} users and {len(items)} items do not fit {data.name}; load its own data"
        )
    ranking = VectorRanking(users, items, widths)
    hidden = [known_positives(data).to(users.device)]
    for rows in data.test.to(users.device).counts.nonzero()[:, 0].split(ranking.users_per_batch(k)):
        yield rows, torch.stack([ranked for _, ranked, _ in ranking(rows, k, hidden)])


def profile_lists(
    users: Tensor, items: Tensor, data: Interactions, *, widths: Sequence[int], k: int = 20
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """What is recommended, and how well to items of each popularity class, in one pass. Two tables.

    users (U, D), items (I, D): on one device, rows as in `data`.
    The first has columns width, metric, k, value, see `measure_exposure`. The second has grouping, group, width,
    metric (recall), k, users, value: the mean of |top k ∩ relevant ∩ class| / |relevant ∩ class| over the users with
    relevant items in the class.
    """
    classes = torch.from_numpy(classify_popularity(known_positives(data).item_counts.cpu().numpy())).to(users.device)
    test = data.test.to(users.device)
    keys = test.keys()
    exposure = torch.zeros(len(widths), data.num_items + 1, dtype=torch.int64, device=users.device)
    hits = torch.zeros(len(widths), data.num_users, len(CLASSES), dtype=torch.int32, device=users.device)
    for rows, ranked in recommend(users, items, data, widths=widths, k=k):  # (L, B, k)
        for level, level_items in enumerate(ranked):
            exposure[level] += torch.bincount(level_items.flatten() + 1, minlength=data.num_items + 1)
        ranked_keys = torch.where(ranked < 0, -1, ranked + (rows * data.num_items)[:, None])
        hit = keys[torch.searchsorted(keys, ranked_keys).clamp_(max=len(keys) - 1)] == ranked_keys
        ranked_classes = classes[ranked.clamp(min=0)]
        for number in range(len(CLASSES)):
            hits[:, rows, number] = (hit & (ranked_classes == number)).sum(2, dtype=torch.int32)

    relevant = torch.zeros(data.num_users, len(CLASSES), dtype=torch.int64, device=users.device)
    index = (test.users.long(), classes[test.items.long()])
    relevant.index_put_(index, torch.ones_like(index[0]), accumulate=True)
    groups = []
    for number, group in enumerate(CLASSES):
        affected = relevant[:, number] > 0
        if not affected.any():
            continue
        recall = (hits[:, affected, number].double() / relevant[affected, number]).mean(1).tolist()
        facts = {"grouping": POPULARITY, "group": group, "width": widths, "metric": "recall", "k": k}
        groups.append(pl.DataFrame(facts | {"users": int(affected.sum()), "value": recall}))
    counts = known_positives(data).item_counts.cpu().numpy()
    exposures = zip(widths, exposure[:, 1:].cpu().numpy(), strict=True)
    table = pl.DataFrame(
        [
            {"width": width, "metric": metric, "k": k, "value": value}
            for width, row in exposures
            for metric, value in measure_exposure(row, counts, data.num_users).items()
        ]
    )
    return table, pl.concat(groups)


def measure_exposure(exposure: np.ndarray, item_counts: np.ndarray, num_users: int) -> dict[str, float]:
    """What recommendations are like, from how often each item is recommended.

    exposure, item_counts: (I,), recommendations and known interactions of each item.
    coverage: share of the items that are recommended to anybody.
    gini: Σ_r (2r − I − 1) · x_r / (I · Σ x), x ascending: 0 where all items are recommended alike, near 1 for one.
    novelty: mean of −log2(interactions / users) over recommendations, bits; an item that nobody has counts as if one
        had it (Vargas and Castells, RecSys 2011). popularity: mean interactions of what is recommended.
    """
    recommended, size = exposure.sum(), len(exposure)
    rank = np.arange(1, size + 1)
    surprise = -np.log2(np.maximum(item_counts, 1) / num_users)
    return {
        "coverage": float((exposure > 0).mean()),
        "gini": float(((2 * rank - size - 1) * np.sort(exposure)).sum() / (size * recommended)),
        "novelty": float((exposure * surprise).sum() / recommended),
        "popularity": float((exposure * item_counts).sum() / recommended),
    }


def add_share_kept(accuracy: pl.DataFrame) -> pl.DataFrame:
    """`kept`, the value over that of the widest width, added to a table of one model with width, metric, k, value."""
    full = pl.col("value").sort_by("width").last().over("metric", "k")
    return accuracy.with_columns(kept=pl.when(full > 0).then(pl.col("value") / full))


def find_oracle_widths(per_user: pl.DataFrame, metric: str = "recall") -> pl.DataFrame:
    """For how many users each width is the best: columns width, users, share, value, full.

    per_user: `Evaluation.per_user` at one k. Of equally good widths the narrowest counts. Users to whom every width
    gives the same are the row with width null. value and full: mean metric of those users at their width, and at the
    widest. The width is picked with the test items known, so `value` is an upper bound and no method's result.
    """
    best = (
        per_user.filter(pl.col("metric") == metric)
        .sort("width")
        .group_by("user")
        .agg(
            width=pl.col("width").get(pl.col("value").arg_max()),
            matters=pl.col("value").min() < pl.col("value").max(),
            value=pl.col("value").max(),
            full=pl.col("value").last(),
        )
    )
    counted = best.group_by(pl.when("matters").then("width")).agg(
        users=pl.len().cast(pl.Int64), value=pl.col("value").mean(), full=pl.col("full").mean()
    )
    widths = per_user.select(pl.col("width").unique())  # widths that are best for nobody have a row too
    return (
        pl.concat([widths, counted.select("width")])
        .unique()
        .join(counted, on="width", how="left", nulls_equal=True)
        .with_columns(pl.col("users").fill_null(0))
        .select("width", "users", (pl.col("users") / pl.col("users").sum()).alias("share"), "value", "full")
        .sort("width", nulls_last=True)
    )


def vector_costs(widths: Sequence[int], num_items: int) -> pl.DataFrame:
    """What a width costs: columns width, bytes_per_item, table_mib, multiply_adds.

    Of float32 vectors, all `num_items` of them scored for one query.
    """
    width = pl.col("width")
    table = pl.DataFrame({"width": widths}, schema={"width": pl.Int64}).with_columns(bytes_per_item=FLOAT * width)
    return table.with_columns(table_mib=pl.col("bytes_per_item") * num_items / 2**20, multiply_adds=width * num_items)


def describe_accuracy(table: pl.DataFrame, *, enough: float = 0.95) -> str:
    """From `add_share_kept` of one metric, with `trained`: the ends, the narrowest good width, the untrained ones.

    enough: the share of the full width's accuracy that counts as good.
    """
    rows = table.drop_nulls("kept").sort("width").to_dicts()
    if len(rows) < 2:
        return ""
    name, first, last = f"{rows[0]['metric']}@{rows[0]['k']}", rows[0], rows[-1]
    good = next(row for row in rows if row["kept"] >= enough)
    best = max(rows, key=lambda row: row["value"])
    text = f"The first {first['width']} of {last['width']} dimensions keep {percent(first['kept'])} of {name} "
    text += f"({first['value']:.4f} of {last['value']:.4f}); {percent(enough)} is reached at width {good['width']}."
    if best["width"] != last["width"]:
        text += f" The highest is at width {best['width']} ({best['value']:.4f}), not at the full one."
    trained = [row for row in rows if row.get("trained", True)]
    between = [row for row in rows if row not in trained and first["width"] < row["width"] < last["width"]]
    if between and trained:
        axis, known_values = zip(*((np.log2(row["width"]), row["value"]) for row in trained), strict=True)
        gap = {row["width"]: row["value"] / np.interp(np.log2(row["width"]), axis, known_values) - 1 for row in between}
        worst = max(gap, key=lambda width: abs(gap[width]))
        text += f" Widths between trained ones ({listed([str(width) for width in gap])}) are at most "
        text += f"{percent(abs(gap[worst]))} off the line through their neighbours (width {worst}, "
        text += f"{'above' if gap[worst] > 0 else 'below'} it)."
    return text


def describe_groups(table: pl.DataFrame, grouping: str) -> str:
    """From `accuracy_by_activity` or the second table of `profile_lists`: what each group has and keeps."""
    part = table.filter(pl.col("grouping") == grouping).sort("group", "width")
    if not len(part):
        return ""
    ends = [
        (group, rows.row(0, named=True), rows.row(-1, named=True))
        for (group,), rows in part.group_by("group", maintain_order=True)
    ]
    _, narrow, wide = ends[0]
    parts = [
        f"{group} {last['value']:.4f}" + (f" ({percent(first['value'] / last['value'])})" if last["value"] > 0 else "")
        for group, first, last in ends
    ]
    text = f"{narrow['metric']}@{narrow['k']} by {grouping} at width {wide['width']}, and how much of it width "
    return f"{text[0].upper()}{text[1:]}{narrow['width']} has: {listed(parts)}."


def describe_lists(table: pl.DataFrame) -> str:
    """From the first table of `profile_lists`, of one model: how what is recommended changes from narrow to wide."""
    if not len(table):
        return ""
    ends = {}
    for (metric,), rows in table.sort("width").group_by("metric"):
        ends[metric] = (rows.row(0, named=True), rows.row(-1, named=True))
    narrow, wide = (row["width"] for row in ends["coverage"])

    def both(metric: str, form) -> str:
        return " and ".join(form(row["value"]) for row in ends[metric])

    text = f"From width {narrow} to width {wide}: {both('coverage', percent)} of the items are recommended to anybody, "
    text += f"the Gini index of exposure is {both('gini', '{:.2f}'.format)}, a recommended item has "
    text += f"{both('popularity', '{:,.0f}'.format)} interactions on average and a novelty of "
    text += f"{both('novelty', '{:.2f}'.format)} bits. "
    first, last = (row["value"] for row in ends["popularity"])
    change = last / first - 1 if first else math.inf if last else 0.0  # 0: nobody but the listed users has met them
    if math.isinf(change):
        return text + "The wide lists are more popular."
    if abs(change) < 0.02:
        return text + "Wider lists are as popular as narrow ones."
    return text + f"The wide lists are {'more' if change > 0 else 'less'} popular by {percent(abs(change))}."


def describe_oracle(table: pl.DataFrame, *, metric: str = "recall@20") -> str:
    """From `find_oracle_widths`: whom the width matters to, which is best for most, and what knowing it would give."""
    users = table["users"].sum()
    decided = table.drop_nulls("width")
    affected = decided["users"].sum()
    if not affected:
        return f"Every width gives each of the {users:,} users the same {metric}."
    served = table.filter(pl.col("users") > 0)
    value, full = ((served[name] * served["users"]).sum() / users for name in ("value", "full"))
    most = decided.row(int(decided["users"].arg_max()), named=True)
    last = decided.row(-1, named=True)
    text = f"{percent(1 - affected / users)} of users get the same {metric} at every width. Of the other {affected:,}, "
    text += f"the largest group, {percent(most['users'] / affected)}, is best served by width {most['width']}"
    if most["width"] != last["width"]:
        text += f" already; {percent(last['users'] / affected)} need the full width {last['width']}"
    text += f". Were each user's best width known beforehand, {metric} would be {value:.4f} instead of {full:.4f} at "
    return text + f"width {last['width']}: an upper bound, picked with the test items known, and partly luck."


def describe_cost(table: pl.DataFrame) -> str:
    """From `vector_costs` joined with `add_share_kept`: what the narrowest and the narrowest good width save."""
    rows = table.drop_nulls("kept").sort("width").to_dicts()
    if len(rows) < 2:
        return ""
    last = rows[-1]
    good = next(row for row in rows if row["kept"] >= 0.95)
    parts = []
    for row in (rows[0], good) if good["width"] != rows[0]["width"] else (good,):
        words = f"width {row['width']} takes {row['bytes_per_item']} bytes an item and {row['multiply_adds']:,} "
        parts.append(words + f"multiply-adds a query for {percent(row['kept'])} of the accuracy")
    text = (
        f"At full width a vector takes {last['bytes_per_item']} bytes (all items: {last['table_mib']:.2f} MiB) and a "
    )
    return text + f"query {last['multiply_adds']:,} multiply-adds; {listed(parts)}."
