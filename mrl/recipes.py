"""Recipes: the values of settings that are left out."""

from __future__ import annotations

from typing import Any

# What each recipe takes where nothing is said. mrl4rec: the authors' settings; default: see `reports/log.md`.
_DEFAULT = {
    "backbone": "propagation", "loss": "softmax", "epochs": 300, "batch_size": 0, "learning_rate": 4e-3,
    "eval_every": 1, "patience": 5,
}  # fmt: skip
RECIPES: dict[str, dict[str, Any]] = {
    "default": _DEFAULT,
    "least_squares": _DEFAULT | {"epochs": 0},
    "mrl4rec": {
        "backbone": "mf", "loss": "bpr", "epochs": 300, "batch_size": 2048, "learning_rate": 1e-3, "l2": 1e-4,
        "hops": 2, "eval_every": 5, "patience": 10,
    },
}  # fmt: skip
BY_RECIPE = tuple(RECIPES["mrl4rec"])  # settings that may be left out
# Of default and least_squares, where neither settings nor a search say; alpha0 and fit_width depend on the data.
USUAL: dict[str, Any] = {
    "frequency_l2": 0.01, "nu": 1.0, "sweeps": 4, "nested_sweeps": 0, "l2_width_exponent": 0.3,
    "propagation": (0.5, 0.0), "rotation": True, "hops": 3, "l2": 0.5, "initial_scale": 1.2,
}  # fmt: skip
OF_PAIRS = {"l2": 1e-2, "learning_rate": 2e-3}  # instead, of losses other than softmax


def settings_of(recipe: str, loss: str | None) -> dict[str, Any]:
    """What a recipe takes where nothing is said. loss: what is said of it, None where nothing is."""
    of_loss = OF_PAIRS if recipe != "mrl4rec" and loss not in (None, "softmax") else {}
    return {name: of_loss.get(name, value) for name, value in RECIPES[recipe].items()}
