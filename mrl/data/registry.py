"""The data sets that are known by name: addresses, checksums and sizes. `mrl.data.downloads` fetches them.

ml-100k and ml-1m: Harper & Konstan, "The MovieLens Datasets" (TiiS 2015). phone, sport, tool and ml100k: the splits of
Lai et al. (arXiv 2406.07432). yelp, gowalla and amazon-book: the splits of He et al., LightGCN (SIGIR 2020).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

GROUPLENS = "https://files.grouplens.org/datasets/movielens"
LIGHTGCN = "https://raw.githubusercontent.com/gusye1234/LightGCN-PyTorch/947ca2b3b1d2d3545b114145710cb06c4e57b3d2/data"
PAPER = "https://raw.githubusercontent.com/Riwei-HEU/MRL/5f5dbe7e357a1128eb7d2730d8d9c586c9b282fd/data"
RECBOLE = "recbole/dataset_example/ml-100k"  # a folder of the wheel

# By SHA-256; 40 digits are the id that git gives a file, where that is the only first-hand check.
CHECKSUMS = {
    "ml-100k.zip": "50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229",
    "ml-100k.inter": "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff",
    "ml-100k.item": "51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532",
    "ml-1m.zip": "a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20",
    "ml100k/train.txt": "771e3bcf49f18f877d4d2157ae30c4d91c0e1df80fd00d2cf3b5def821fb6ac5",
    "ml100k/test.txt": "5ec57f9322280fe1c5dfe5746773f2c5108aaedd11d1f2d55f52119a8a266dd4",
    "phone/train.txt": "fce5cf288e50c3710401c17f507db293e526f5b398992c80042dbfe65cddc2e1",
    "phone/test.txt": "ba6429e11f526416cc941bd1f58b892a586641c27a1084c63e1da78eb1592724",
    "sport/train.txt": "446ff26e2a5c0ca7556bcc2ebf5275177ccba92c49cb63905de850e0085a6c37",
    "sport/test.txt": "36456558a5cfb709893203e964e7fa8f1f284f6c9735eb05f8f6d71d267c3978",
    "tool/train.txt": "f59f810f2aaafe20814d9f16ff193bd571dfe3c4706fd29cf5352cc419c045bb",
    "tool/test.txt": "3ba5f318520b55790e9e44a55e8dfb996328bc682a5fbb49f9a8a97a34fbc879",
    "yelp2018/train.txt": "cda12361055ba448ae4bd1070f6000c16dea8f22",
    "yelp2018/test.txt": "9cd9b37926cd1447a06625ffa7914527573fb097c10cb0bbdb1d1b8ded3742fe",
    "gowalla/train.txt": "a27782bd7a1d4d0744148dc0460ea94da74763f2",
    "gowalla/test.txt": "099a2a73924e4b754dc6efd730d764f492321b53c38eb93298850c83acf57be3",
    "amazon-book/train.txt": "6ef55159c5f1fd7f6d86eb9ff290d0cc2854ac99",
    "amazon-book/test.txt": "6250754994dd953b91b48dccdd77a73f318e0634b4757c2abfcc9d33a54ab0f5",
}


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
    """Where a data set comes from: each of `files` under `base`, or else a wheel.

    interactions: how many it has in all, train and test, by which a truncated copy is known; None where not known.
    """

    about: str
    base: str
    files: tuple[RemoteFile, ...]
    interactions: int | None = None
    wheel: Wheel | None = field(default=None, repr=False)


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


_WHEEL = {f"{RECBOLE}/{name}": RemoteFile(name, CHECKSUMS[name]) for name in ("ml-100k.inter", "ml-100k.item")}

DATASETS: dict[str, Source] = {
    "ml-100k": _movielens("ml-100k", 100_000, "u.data", "u.item", wheel=Wheel("recbole==1.2.1", _WHEEL)),
    "ml-1m": _movielens("ml-1m", 1_000_209, "ratings.dat", "movies.dat"),
    "ml100k": _split("the paper's split of MovieLens-100K; labels by way of ml-100k", PAPER, "ml100k", 100_000),
    "phone": _split("the paper's split of Amazon phones", PAPER, "phone", 194_439),
    "sport": _split("the paper's split of Amazon sports", PAPER, "sport", None),
    "tool": _split("the paper's split of Amazon tools", PAPER, "tool", 134_476),
    "yelp": _split("LightGCN's split of Yelp 2018", LIGHTGCN, "yelp2018", 1_561_406),
    "gowalla": _split("LightGCN's split of Gowalla", LIGHTGCN, "gowalla", 1_027_370),
    "amazon-book": _split("LightGCN's split of Amazon books", LIGHTGCN, "amazon-book", 2_984_108),
    "planted": Source("a synthetic taxonomy with known clusters, of any size", "", ()),
}
