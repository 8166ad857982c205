"""Numbers, lists and labels in words, as sentences and figures have them."""

from __future__ import annotations

from collections.abc import Sequence

MOST = 0.5  # share of all items beyond which what is typical of a cluster says little
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


def is_most(row: dict) -> bool:
    """Whether a cluster (a row of names) holds most of all items."""
    return (row.get("share") or 0) > MOST
