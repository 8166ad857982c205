"""Small logs for tests of files, and what comes of them."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from mrl.data import load_dataset
from mrl.errors import ConfigError, DataError

TIME = 881_250_949


def write(path: Path, body: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(body if isinstance(body, bytes) else body.encode())
    return path


def refusal(path: Path, **settings) -> str:
    with pytest.raises((DataError, ConfigError)) as caught:
        load_dataset(path, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def ratings(users: int = 30, items: int = 200, each: int = 6, seed: int = 0) -> list[tuple[int, int, int, int]]:
    """Rows of user, item, stars and time; every user has several, as in a log."""
    dice = random.Random(seed)
    rows = [
        (user, item, dice.randint(1, 5)) for user in range(1, users + 1) for item in dice.sample(range(1, items), each)
    ]
    return [(*row, TIME + number * 60) for number, row in enumerate(rows)]


def lines(rows, separator: str = "\t") -> str:
    return "".join(separator.join(map(str, row)) + "\n" for row in rows)


def pairs(data) -> set[tuple]:
    found = set()
    for split in (data.train, data.test):
        rows = zip(split.users.tolist(), split.items.tolist(), strict=True)
        found |= {(data.user_ids[user], data.item_ids[item]) for user, item in rows}
    return found
