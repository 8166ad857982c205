"""The loops that most tests need, compiled before any of them starts: numba keeps them on disk for all processes.

Two test processes, and all that they start, would each compile the same for half a minute. Run as a program it trains
on a few interactions: `python compiled.py default`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

KINDS = {
    "default": [{"recipe": "default", "epochs": 1}],
    "mrl4rec": [{"recipe": "mrl4rec", "epochs": 1}, {"recipe": "mrl4rec", "epochs": 1, "rule": "dens"}],
}
ROOT = Path(__file__).resolve().parents[1]


def compile_loops() -> None:
    """Side by side, and only in a fresh clone: elsewhere the tests compile what is missing or has changed."""
    if next((ROOT / "mrl").rglob("*.nbi"), None):
        return
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    started = [subprocess.Popen([sys.executable, __file__, kind], env=environment) for kind in KINDS]
    for process in started:
        process.wait()  # where it fails, so does a test


def train_small(kind: str) -> None:
    from settings import GIVEN, train_config

    from mrl import fit

    planted = {"num_users": 150, "num_items": 64, "interactions": 2500}
    for settings in KINDS[kind]:
        given = GIVEN if kind == "default" else {}
        with tempfile.TemporaryDirectory() as folder:
            base = {"dataset": "planted", "planted": planted, "widths": (2, 4, 8), "device": "cpu", **given}
            fit(train_config(**base | settings, run_dir=f"{folder}/run"), progress=False)


if __name__ == "__main__":
    train_small(sys.argv[1])
