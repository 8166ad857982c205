"""Parquet folders read by shards, as Spark writes them, hive partitions too: no process ever holds all pairs.

Each process reads its share of the rows, some at a time, twice: first for the ids, then for the pairs; a third time for
those below `min_rating`. Distinct ids are shuffled by their hash, merged where they meet, and told to all: every
process knows all ids, in order, as `build` gives them rows. Pairs go by all-to-all to the process that owns their user,
where repeats are merged and some are held out: of each user as many as in one process, which ones a hash of seed, user
and item says.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import torch
from torch import Tensor

from mrl.config import TrainConfig
from mrl.data import Interactions, Positives, dataset_name
from mrl.data.datasets import find_files, find_path
from mrl.data.interactions import id_array, in_row_order
from mrl.data.splits import random_mask
from mrl.errors import ConfigError, DataError
from mrl.files import Format, ParquetTable, check_parquet, read_item_table, read_log, sniff_parts, suffix_of
from mrl.sharded.group import Group
from mrl.sharded.rows import Rows, share_rows, swap_pairs

CHUNK = 2**18  # rows at a time
ROLES = ("user", "item", "rating", "timestamp")


def parquet_parts(dataset: str) -> tuple[Path, tuple[Path, ...], Path | None] | None:
    """Folder, parts and item labels of a data set that is one Parquet table in parts, not yet split; else None."""
    path = find_path(dataset)
    files = find_files(path) if path is not None and path.is_dir() else None
    if files is None or files.test is not None or not files.train.parts:
        return None
    is_parquet = all(suffix_of(part) in (".parquet", ".pq") for part in files.train.parts)
    return (files.train.path, files.train.parts, files.items) if is_parquet else None


def read_shard(
    config: TrainConfig, group: Group, folder: Path, parts: tuple[Path, ...], items: Path | None
) -> tuple[Rows, Interactions, np.ndarray]:
    """Whose users are whose, the interactions of one's own, and all user ids. items: a table of labels.

    Raises ConfigError for settings that shards do without, DataError as `mrl.data.load_data`.
    """
    name = dataset_name(config.dataset)
    if config.split not in ("auto", "random"):
        raise ConfigError(f"split={config.split!r}: shards are split at random; take split='random', or processes=1")
    if config.core > 1:
        raise ConfigError(f"core={config.core}: is not sharded; take core=1, or processes=1")
    reader = _Reader(config, group, folder, parts)
    counts, ids = _count(group, reader)
    if not all(map(len, ids.values())):
        raise DataError(f"{name}: no interactions left with min_rating={config.min_rating}; lower it")
    users = share_rows(counts[0], group)
    most = counts[:, users.start : users.stop].sum(1).tolist()
    pairs = {kept: _shuffle(group, reader, ids, users, kept, most[not kept]) for kept in (True, False)}
    repeats = sum(group.each(most[0] - len(pairs[True])))
    notes = [f"read {reader.found}", *dict.fromkeys(reader.notes), "split by a hash of seed, user and item"]
    notes += [f"{repeats} repeated interactions merged"] if repeats else []
    labels = None if items is None else read_item_table(items, config.item_column, notes)
    labels = None if labels is None else in_row_order(labels, ids["item"], name, notes)
    user_ids, item_ids = id_array(ids["user"]), id_array(ids["item"])
    own_ids = user_ids[users.start : users.stop]
    train, valid, test, dropped = _split(config, pairs, users, len(item_ids))
    if not sum(group.each(len(dropped))):
        dropped = None
    valid = test if config.protocol == "paper" else valid  # as of `mrl.data.as_paper`, without a copy of train
    return users, Interactions(name, train, valid, test, own_ids, item_ids, labels, tuple(notes), dropped), user_ids


def hashed_noise(seed: int, users: np.ndarray, items: np.ndarray) -> np.ndarray:
    """(N,) uint32 for `random_mask`, by a hash of seed, user and item alone: the same wherever a pair lies.

    The finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014), once for each of the three.
    """
    mixed = np.full(len(users), seed, dtype=np.uint64)
    for values in (np.zeros(len(users)), users, items):
        mixed = mixed + values.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed ^= mixed >> np.uint64(31)
    return (mixed >> np.uint64(32)).astype(np.uint32)


class _Reader:
    """The rows that this process reads, some at a time: the same number of times in every process."""

    def __init__(self, config: TrainConfig, group: Group, folder: Path, parts: tuple[Path, ...]) -> None:
        self.min_rating, self.notes = config.min_rating, []
        self.columns = {f"{role}_column": config.setting(f"{role}_column") for role in ROLES}
        given = {role: self.columns[f"{role}_column"] for role in ROLES}
        self.found: Format = sniff_parts(folder, parts, given, check=False)
        counts = [ParquetTable(part).count() for part in parts]
        ends, total = np.cumsum(counts), sum(counts)
        first, last = total * group.rank // group.size, total * (group.rank + 1) // group.size
        self.pieces = []
        for part, count, end in zip(parts, counts, ends.tolist(), strict=True):
            start, stop = max(first, end - count), min(last, end)
            for at in range(start, stop, CHUNK):
                self.pieces.append((part, at - (end - count), min(CHUNK, stop - at)))
        if self.pieces:
            check_parquet(*dict.fromkeys(part for part, *_ in self.pieces))
        self.rounds = max(group.each(len(self.pieces)))

    def frames(self) -> Iterator[pl.DataFrame]:
        """Columns user, item and kept, the last whether the rating is at least min_rating."""
        needed = ["rating"] if self.min_rating is not None else []
        for part, start, count in self.pieces:
            piece = replace(self.found, parts=(part,), rows=(start, count))
            log = read_log(piece, **self.columns, needed=needed, notes=self.notes)
            kept = pl.lit(True)
            if needed:
                rating = pl.col("rating").cast(pl.Float64)
                kept = ((rating >= self.min_rating) & rating.is_not_nan()).fill_null(False)
            yield log.select("user", "item", kept=kept)
        for _ in range(self.rounds - len(self.pieces)):
            yield pl.DataFrame(schema={"user": pl.Null, "item": pl.Null, "kept": pl.Boolean})


def _count(group: Group, reader: _Reader) -> tuple[Tensor, dict[str, pl.Series]]:
    """(2, U) interactions of each user that are kept, and that are not, repeats included; by side all ids, in order."""
    counted: dict[str, list[pl.DataFrame]] = {"user": [], "item": []}
    for frame in reader.frames():
        for side, seen in counted.items():
            seen.append(frame.group_by(side).agg(pl.col("kept").sum(), left=(~pl.col("kept")).sum()))
            if sum(map(len, seen[1:])) >= len(seen[0]):  # not after every frame: there may be far more ids
                seen[:] = [pl.concat(seen, how="vertical_relaxed").group_by(side).sum()]
    tables = {}
    for side, seen in counted.items():
        table = pl.concat(seen, how="vertical_relaxed").group_by(side).sum()
        owner = table[side].cast(pl.String).hash() % group.size  # by how it is written: of numbers beside text, too
        sent = [table.filter(owner == rank) for rank in range(group.size)]
        own = swap_frames(group, sent).group_by(side).sum().filter(pl.col("kept") > 0)
        tables[side] = swap_frames(group, [own] * group.size).sort(side)
    counts = torch.from_numpy(tables["user"].select(pl.col("kept", "left").cast(pl.Int64)).to_numpy().T.copy())
    return counts.to(group.device), {side: table[side] for side, table in tables.items()}


def swap_frames(group: Group, frames: list[pl.DataFrame]) -> pl.DataFrame:
    """All-to-all: a frame for each process; returns those from each, one below the other."""
    if group.size == 1:
        return frames[0]
    texts = []
    for frame in frames:
        buffer = io.BytesIO()
        frame.write_ipc(buffer)
        texts.append(buffer.getvalue())
    counts = list(map(len, texts))
    data = torch.frombuffer(bytearray(b"".join(texts)), dtype=torch.uint8).to(group.device)
    expected = group.swap_counts(counts)
    received = group.swap(data, counts, expected).cpu()
    parts = [pl.read_ipc(io.BytesIO(part.numpy().tobytes())) for part in received.split(expected)]
    return pl.concat(parts, how="vertical_relaxed")


def _shuffle(
    group: Group, reader: _Reader, ids: dict[str, pl.Series], users: Rows, kept: bool, most: int
) -> np.ndarray:
    """Distinct pairs of own users, `most` or fewer, that are kept, or are not, as user · I + item (N,), increasing."""
    rows = {side: column.to_frame().with_row_index(f"{side}_row") for side, column in ids.items()}

    def pairs() -> Iterator[tuple[Tensor, Tensor]]:
        for frame in reader.frames() if kept or reader.min_rating is not None else ():
            frame = frame.filter(pl.col("kept") == kept)
            for side, table in rows.items():  # pairs that are not kept, of ids that nothing else has, are left out
                frame = frame.with_columns(pl.col(side).cast(table[side].dtype)).join(table, on=side)
            user, item = (torch.from_numpy(frame[f"{side}_row"].cast(pl.Int64).to_numpy().copy()) for side in rows)
            yield user, item

    return swap_pairs(group, users, len(ids["item"]), pairs(), most)


def _split(config: TrainConfig, pairs: dict[bool, np.ndarray], users: Rows, num_items: int) -> list[Positives]:
    """Train, validation, test and dropped positives of own users, made tile by tile, so that little is held beside."""
    tables: list[list[np.ndarray]] = [[] for _ in range(8)]  # counts and items of each of the four
    for tile in users.own_tiles:
        size, edges = tile.stop - tile.start, (np.array([tile.start, tile.stop]) + users.start) * num_items
        keys, dropped = (pairs[kept][slice(*np.searchsorted(pairs[kept], edges))] for kept in (True, False))
        rows, items = keys // num_items, keys % num_items
        noise = hashed_noise(config.seed, rows, items)
        rows -= tile.start + users.start
        in_test = random_mask(rows, config.holdout.test_fraction, noise)
        in_valid = np.zeros(len(rows), dtype=bool)
        if config.protocol == "honest":  # of what is left, by the same hash: what is smallest went to test
            in_valid[~in_test] = random_mask(rows[~in_test], config.holdout.valid_fraction, noise[~in_test])
        below = np.setdiff1d(dropped, keys, assume_unique=True)
        parts = [(rows[mask], items[mask]) for mask in (~in_test & ~in_valid, in_valid, in_test)]
        parts.append((below // num_items - tile.start - users.start, below % num_items))
        for number, (own, met) in enumerate(parts):
            tables[2 * number].append(np.bincount(own, minlength=size))
            tables[2 * number + 1].append(met.astype(np.int32))
    pairs.clear()
    keys = dropped = None  # views of them
    counts, items = ([np.concatenate([np.empty(0, kind), *each]) for each in tables[side::2]] for side, kind in
                     ((0, np.int64), (1, np.int32)))  # fmt: skip
    return [
        Positives(torch.from_numpy(np.r_[0, np.cumsum(each)]), torch.from_numpy(met), num_items)
        for each, met in zip(counts, items, strict=True)
    ]
