"""Known answers for tests of prototypes: four blobs in the first columns, four more within each in the later ones."""

from __future__ import annotations

import numpy as np
from taxonomy import taxonomy


def blobs(copies: int = 8, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Items (128, 16) and their branches (2, 128): what `taxonomy` gives, in an order that tells nothing."""
    items, labels = taxonomy(copies, seed=seed)
    order = np.random.default_rng(seed).permutation(len(items))
    return items[order], labels.to_numpy().T[:, order]
