"""In place of umap-learn, whose first call compiles for a quarter of a minute: two columns for a map.

For notebooks whose maps are not what is tested; `figures/test_maps.py` draws them by UMAP.
"""

from __future__ import annotations

import numpy as np


class UMAP:
    def __init__(self, **options: object) -> None:
        self.options = options

    def fit_transform(self, points: np.ndarray) -> np.ndarray:
        return np.asarray(points, dtype=np.float64)[:, :2]


class AlignedUMAP(UMAP):
    def fit(self, points: list[np.ndarray], relations: list[dict[int, int]]) -> None:
        assert len(relations) == len(points) - 1
        self.embeddings_ = [self.fit_transform(each) for each in points]
