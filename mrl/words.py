"""Numbers, lists and labels in words, as sentences and figures have them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

MOST = 0.5  # share of all items beyond which what is typical of a cluster says little
METRICS = {"recall": "Recall", "precision": "Precision", "ndcg": "NDCG", "hit": "Hit ratio", "mrr": "MRR", "map": "MAP"}
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


def readable(label: str) -> str:
    """A label's column name as a reader would say it: `depth_1` is `true depth 1`."""
    return READABLE.get(label, label.replace("depth_", "true depth "))


def is_most(row: dict) -> bool:
    """Whether a cluster (a row of names) holds most of all items."""
    return (row.get("share") or 0) > MOST


# What figures, tables and pages call the models that run directories and the study name.
MODELS = {
    "default": "default recipe",
    "least_squares": "default recipe, untrained",
    "mrl4rec": "MRL4Rec (MNS)",
    "shared": "MRL4Rec, shared negatives",
    "bpr": "BPR, truncated",
    "bpr-rotated": "BPR, rotated",
    "bpr-shuffled": "BPR, shuffled columns",
    "alone": "BPR at each width alone",
    "mf-dns-alone": "BPR at each width alone",
    "ials": "iALS, rotated",
    "ials-alone": "iALS at each width alone",
    "ease": "EASE",
    "popularity": "popularity",
}
_PATTERNS = (
    (r"ials-(\d+)", r"iALS-\1, rotated"),
    (r"ials-alone-(\d+)", r"iALS at width \1 alone"),
    (r"(?:mf-dns-)?alone-?(\d+)", r"BPR at width \1 alone"),
)
_TRAINED = re.compile(r"(mf|lightgcn)\d*-(?:(bce|cml|dau|uib)-)?(rns|dns|dns_mn|mix|cns|ahns|dens)-(mns|shared)")


def model_name(model: str) -> str:
    """The display name of a model: `mf-dns-mns` is `MRL4Rec (MNS)`; one that is not known keeps its own name."""
    for name in (model, model.replace("-", "_")):
        if name in MODELS:
            return MODELS[name]
    for pattern, name in _PATTERNS:
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
