"""Numbers and lists in words, and the one table of what models, genres and branches are called and look like.

Every figure, sentence and page takes names, colours and markers from here, so that a model has one look wherever it is
met. The first eight colours are Okabe & Ito's ("Color universal design", 2008), the others Paul Tol's muted ones.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple
from zlib import crc32

PATH = " > "  # between the parts of a label that is a path in a taxonomy
MOST = 0.5  # share of all items beyond which what is typical of a cluster says little
METRICS = {"recall": "Recall", "precision": "Precision", "ndcg": "NDCG", "hit": "Hit ratio", "mrr": "MRR", "map": "MAP"}
KEPT = 0.9  # of the widest: by narrower vectors that are named
READABLE = {"popularity": "popularity (log)", "year": "release year", "genres": "genres"}


def percent(value: float) -> str:
    """A share as words: `62 %`, `0.6 %` where it is small."""
    return f"{100 * value:.1f} %" if 0 < abs(value) < 0.0095 else f"{100 * value:.0f} %"


def metric_title(metric: str, k: int | None = None) -> str:
    """A metric as readers see it: `recall`, 20 or `recall@20` gives `Recall@20`."""
    name, _, cut = metric.partition("@")
    cut = cut or ("" if k is None else str(k))
    title = METRICS.get(name, name[:1].upper() + name[1:].replace("_", " "))
    return f"{title}@{cut}" if cut else title


def listed(words: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]])) if words else ""


def describe_widths(monitor: str, wider: Sequence[tuple[int, float]] | None, values: Mapping[int, float]) -> str:
    """What wider vectors would gain and the narrowest that are good enough keep, on validation; empty where unknown.

    wider: width and gain; None where none was measured. values: the metric by width that is served, narrowest first.
    """
    title, said, widest = metric_title(monitor), [], max(values)
    if wider:
        (width, gain), *others = wider
        said.append(f"{width} dimensions would gain {percent(gain)} in {title}")
        said[0] = ", ".join([said[0], *(f"{width} {percent(gain)}" for width, gain in others)])
    elif wider is not None:
        said.append(f"no wider vectors would gain clearly in {title}")
    kept = {width: value / values[widest] for width, value in values.items() if value >= KEPT * values[widest] > 0}
    if kept and min(kept) < widest:
        of = "" if wider is not None else f" of the {title} of {widest}"
        said.append(f"{min(kept)}{'' if wider else ' dimensions'} keep {percent(kept[min(kept)])}{of}")
    return f"on validation, {'; '.join(said)}" if said else ""


def readable(label: str) -> str:
    """A label's column name as a reader would say it: `depth_1` is `true depth 1`."""
    return READABLE.get(label, label.replace("depth_", "true depth ").replace("home_", "home branch of depth "))


def is_most(row: dict) -> bool:
    """Whether a cluster (a row of names) holds most of all items."""
    return (row.get("share") or 0) > MOST


BLUE, VERMILION, GREEN, PINK, ORANGE, SKY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"
BLACK, BROWN, WINE, INDIGO, OLIVE, TEAL = "#000000", "#8C6D1F", "#882255", "#332288", "#999933", "#44AA99"
COLOURS = (BLUE, VERMILION, GREEN, PINK, ORANGE, SKY, BLACK, BROWN, WINE, INDIGO, OLIVE, TEAL)
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "*")


class Look(NamedTuple):
    """How readers meet a model: its display name, its colour, its marker (of matplotlib)."""

    name: str
    colour: str
    marker: str


# The models of run directories and of the study. Those that are drawn together differ in colour, all differ in marker
# or colour.
MODELS = {
    "default": Look("default recipe", BLUE, "o"),
    "least_squares": Look("default recipe, untrained", SKY, "P"),
    "mrl4rec": Look("MRL4Rec (MNS)", VERMILION, "s"),
    "shared": Look("MRL4Rec, shared negatives", ORANGE, "D"),
    "mf-ahns-mns": Look("MRL4Rec (MNS, AHNS)", WINE, "X"),
    "lightgcn-dns-mns": Look("MRL4Rec on LightGCN (MNS)", BROWN, "p"),
    "lightgcn-dns-shared": Look("MRL4Rec on LightGCN, shared negatives", OLIVE, "h"),
    "lightgcn-ahns-mns": Look("MRL4Rec on LightGCN (MNS, AHNS)", BROWN, "X"),
    "bpr": Look("BPR, truncated", WINE, "P"),
    "bpr-rotated": Look("BPR, rotated", PINK, "^"),
    "bpr-shuffled": Look("BPR, shuffled columns", OLIVE, "*"),
    "alone": Look("BPR at each width alone", INDIGO, ">"),
    "mf-dns-alone": Look("BPR at each width alone", INDIGO, ">"),
    "ials": Look("iALS, rotated", GREEN, "v"),
    "ials-512": Look("iALS-512, rotated", INDIGO, "v"),
    "ials-1024": Look("iALS-1024, rotated", ORANGE, "v"),
    "ials-alone": Look("iALS at each width alone", TEAL, "<"),
    "svd": Look("SVD, truncated", BLACK, ">"),
    "ease": Look("EASE", BLACK, "d"),
    "popularity": Look("popularity", BROWN, "8"),
}
# The default recipe after each of its stages; where it begins and ends it is one of the models above.
STAGES = {
    "ials": Look("iALS on its principal axes", GREEN, "v"),
    "nested": Look("after nested least squares", PINK, "^"),
    "propagated": Look("propagated", ORANGE, "D"),
    "rotated": Look("rotated", SKY, "P"),
    "trained": Look("trained", BLUE, "o"),
}
_PATTERNS = (  # id, name, and the model whose look they take where it is free
    (r"ials-(\d+)", r"iALS-\1, rotated", "ials"),
    (r"ials-alone-(\d+)", r"iALS at width \1 alone", "ials-alone"),
    (r"(?:mf-dns-)?alone-?(\d+)", r"BPR at width \1 alone", "alone"),
)
_TRAINED = re.compile(r"(mf|lightgcn)\d*-(?:(bce|cml|dau|uib)-)?(rns|dns|dns_mn|mix|cns|ahns|dens)-(mns|shared)")
_BY_NAME = {look.name: look for look in MODELS.values()}
# Genres that are often drawn together have colours of their own; the others share, and move on where one is taken.
GENRES = {
    "Drama": BLUE,
    "Comedy": ORANGE,
    "Action": VERMILION,
    "Thriller": PINK,
    "Romance": GREEN,
    "Children's": SKY,
    "Adventure": BROWN,
    "Horror": BLACK,
    "Crime": WINE,
    "Sci-Fi": INDIGO,
    "War": OLIVE,
    "Documentary": TEAL,
    "Film-Noir": BLACK,
    "Mystery": WINE,
    "Musical": SKY,
    "Animation": INDIGO,
    "Fantasy": BROWN,
    "Western": OLIVE,
}


def model_name(model: str) -> str:
    """The display name of a model: `mf-dns-mns` is `MRL4Rec (MNS)`; one that is not known keeps its own name."""
    for name in (model, model.replace("-", "_")):
        if name in MODELS:
            return MODELS[name].name
    for pattern, name, _ in _PATTERNS:
        if match := re.fullmatch(pattern, model):
            return match.expand(name)
    if trained := _TRAINED.fullmatch(model):
        backbone, loss, rule, negatives = trained.groups()
        name = "MRL4Rec on LightGCN" if backbone == "lightgcn" else "MRL4Rec"
        name += ", shared negatives" if negatives == "shared" else ""
        details = ["MNS"] * (negatives == "mns") + [word.upper() for word in (loss, rule) if word not in (None, "dns")]
        return f"{name} ({', '.join(details)})" if details else name
    first, *details = model.split("-")
    return f"default recipe ({', '.join(details)})" if first == "default" else model


def model_names(models: Iterable[str]) -> dict[str, str]:
    """The display name of each model; where two would be called alike, both keep their own names."""
    names = {model: model_name(model) for model in models}
    called = list(names.values())
    return {model: name if called.count(name) == 1 else model for model, name in names.items()}


def model_looks(models: Iterable[str]) -> dict[str, Look]:
    """The look of each model, by its id, in this order: its own from the table, wherever and beside whomever it is.

    Models without a row take the look of a relative (`ials-256` that of `ials`), or one by their name; where another
    model of `models` has that, the next free one.
    """
    names = model_names(dict.fromkeys(models))
    own = {model: look for model, name in names.items() if (look := MODELS.get(model) or _BY_NAME.get(name))}
    looks: dict[str, Look] = {}
    for model in (*own, *(model for model in names if model not in own)):
        relative = next((MODELS[other] for pattern, _, other in _PATTERNS if re.fullmatch(pattern, model)), None)
        wished = own.get(model) or relative
        taken = {(look.colour, look.marker) for look in looks.values()}
        if wished is None or (wished.colour, wished.marker) in taken:
            colour = _free_colour(model, [look.colour for look in looks.values()])
            first = crc32(model.encode()) % len(MARKERS)
            markers = [*MARKERS[first:], *MARKERS[:first]]
            wished = Look("", colour, next((m for m in markers if (colour, m) not in taken), markers[0]))
        looks[model] = wished._replace(name=names[model])
    return {model: looks[model] for model in names}


def branch_number(label: str) -> int | None:
    """3 of `branch 1·3` and of `3: Drama / Crime`; None of what is no branch."""
    match = re.fullmatch(r"branch \d+·(\d+)|(\d+): .*", label)
    return match and int(match[1] or match[2])


def label_colours(labels: Iterable[str]) -> dict[str, str]:
    """The colour of each genre, branch (see `branch_number`) or other label, in this order.

    Its own from the table, of a branch that of its number; others one by their name. Where another of `labels` has
    that, the next free one: the first of `labels` chooses first.
    """
    labels = list(dict.fromkeys(labels))
    wished = {label: GENRES[label] for label in labels if label in GENRES}
    branches = {label: number for label in labels if (number := branch_number(label)) is not None}
    wished |= {label: COLOURS[number % len(COLOURS)] for label, number in branches.items()}
    colours: dict[str, str] = {}
    for label in (*wished, *(label for label in labels if label not in wished)):
        colour = wished.get(label)
        free = colour is not None and colour not in colours.values()
        colours[label] = colour if free else _free_colour(label, list(colours.values()))
    return {label: colours[label] for label in labels}


def _free_colour(name: str, taken: Sequence[str]) -> str:
    """A colour by the name alone, or the next one that is not taken; the least taken where all are."""
    first = crc32(name.encode()) % len(COLOURS)
    return min((*COLOURS[first:], *COLOURS[:first]), key=taken.count)
