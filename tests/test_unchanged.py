"""Weights, metrics and histories of twenty-one small trainings are what they were when they were recorded.

Whoever changes how something is computed sees here what else it changes. Where a change is meant, record again:

    python tests/test_unchanged.py

On the kind of machine that they were recorded on (processor, torch, numba) they are the same bit for bit; elsewhere
sums are added up in another order, and the metrics are the same within a tolerance.
"""

from __future__ import annotations

import hashlib
import json
import platform
import tempfile
from pathlib import Path

import numba
import pytest
import torch
from settings import train_config

from mrl import Run, fit

RECORD = Path(__file__).with_name("unchanged.json")
PLANTED = {"num_users": 240, "num_items": 120, "interactions": 5000, "branching": (3, 3)}
SMALL = {"dataset": "planted", "planted": PLANTED, "widths": (2, 4, 8), "device": "cpu"}
PUBLISHED = {
    "recipe": "mrl4rec", "epochs": 4, "eval_every": 1, "batch_size": 512, "candidates": 4, "learning_rate": 0.02,
}  # fmt: skip
GIVEN = {
    "alpha0": 0.1, "frequency_l2": 0.01, "fit_width": 16, "sweeps": 2, "nested_sweeps": 0, "propagation": (0.5, 0.3),
    "rotation": True,
}  # fmt: skip
CASES = {
    "default, searched": {"epochs": 2, "batch_size": 512},
    "default, given": {**GIVEN, "epochs": 3, "batch_size": 512},
    "default, some levels": {
        **GIVEN, "nested_sweeps": 1, "epochs": 2, "batch_size": 512, "levels_per_step": 2, "nu": 0.75, "hops": 2,
        "level_weights": (1, 2, 3), "initial_scale": 1.4, "l2": 0.1,
    },
    "default, bpr": {**GIVEN, "epochs": 3, "batch_size": 512, "loss": "bpr"},
    "default, bpr, shared negatives": {
        **GIVEN, "nested_sweeps": 1, "epochs": 2, "batch_size": 512, "loss": "bpr", "nested_negatives": False,
        "nu": 0.75, "hops": 3, "level_weights": (1, 2, 3), "initial_scale": 1.4, "l2": 0.003,
    },
    "least_squares, searched": {"recipe": "least_squares", "search": "thorough", **GIVEN},
    "least_squares, given": {"recipe": "least_squares", **GIVEN, "rotation": False, "fit_width": 12},
    "least_squares, usual": {"recipe": "least_squares", "search": "none"},
    "mf, dns": PUBLISHED,
    "mf, dns, shared negatives": PUBLISHED | {"nested_negatives": False},
    "mf, ahns": PUBLISHED | {"rule": "ahns", "hardness": (1.0, 0.05, -2.0)},
    "mf, cns": PUBLISHED | {"rule": "cns"},
    "mf, dns_mn, cosine": PUBLISHED | {"rule": "dns_mn", "topk": 2, "similarity": "cosine"},
    "mf, dens": PUBLISHED | {"rule": "dens"},
    "mf, rns, bce, some levels": PUBLISHED
    | {"rule": "rns", "loss": "bce", "levels_per_step": 2, "level_weights": (1.0, 2.0, 1.0)},
    "mf, cml": PUBLISHED | {"loss": "cml", "similarity": "distance", "margin": 0.3},
    "mf, dau": PUBLISHED | {"loss": "dau", "uniformity": 0.5},
    "mf, uib": PUBLISHED | {"loss": "uib"},
    "lightgcn, dns": PUBLISHED | {"backbone": "lightgcn", "hops": 2, "edge_dropout": 0.1, "message_dropout": 0.1},
    "lightgcn, mix": PUBLISHED | {"backbone": "lightgcn", "hops": 1, "rule": "mix"},
    "mf, paper": PUBLISHED | {"protocol": "paper", "monitor": "recall@20", "eval_widths": (3, 6)},
}  # fmt: skip


def machine() -> list[str]:
    """What the last bits of a sum depend on."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else [platform.processor()]
    names = {line.partition(":")[2].strip() for line in lines if line.startswith(("model", "cpu family"))}
    return [torch.__version__, numba.__version__, torch.backends.cpu.get_cpu_capability(), *sorted(names)]


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def summarise(run: Run) -> dict:
    """Digests of the weights, of the metrics and of the losses and validations epoch by epoch; the mean of the test."""
    tables = [table.contiguous().numpy().tobytes() for table in (run.users, run.items)]
    metrics = run.metrics.drop("model").sort("split", "width", "metric", "k", nulls_last=True)
    epochs = run.history.filter(run.history["phase"].is_in(["search", "refit"]))
    kept = [name for name in epochs.columns if name.startswith(("loss", "ndcg@20_w", "recall@20_w"))]
    return {
        "weights": digest(b"".join(tables)),
        "metrics": digest(json.dumps(metrics.rows()).encode()),
        "history": digest(json.dumps(epochs.select(kept).rows()).encode()),
        "test_mean": metrics.filter(split="test")["value"].mean(),
        "best_epoch": run.environment["best_epoch"],
    }


def train(case: str, folder: Path) -> dict:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return summarise(fit(train_config(**SMALL | CASES[case], run_dir=str(folder / "run")), progress=False))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("case", CASES)
def test_a_training_gives_what_it_gave_when_it_was_recorded(case, tmp_path):
    record = json.loads(RECORD.read_text())
    result, expected = train(case, tmp_path), record["cases"][case]
    if record["machine"] == machine():
        assert result == expected
    else:
        assert result["test_mean"] == pytest.approx(expected["test_mean"], rel=0.05)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        cases = {case: train(case, Path(place) / str(number)) for number, case in enumerate(CASES)}
    RECORD.write_text(json.dumps({"machine": machine(), "cases": cases}, indent=1, ensure_ascii=False) + "\n")
