"""A handful of federated clients with drawn interactions, for the tests of gradient methods."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mrl.data import Positives
from mrl.federated import FederatedConfig, Simulation
from mrl.federated.local_steps import Triplets

ITEMS = 15


def drawn_positives(users: int = 7, items: int = ITEMS, seed: int = 0) -> Positives:
    """Every user has met 1 to 6 items."""
    rng = np.random.default_rng(seed)
    pairs = [(u, i) for u in range(users) for i in rng.choice(items, rng.integers(1, 7), replace=False)]
    return Positives.from_pairs(*np.array(pairs).T, users, items)


def simulation(positives: Positives | None = None, **settings) -> Simulation:
    config = FederatedConfig(
        **{"method": "hetefedrec", "widths": (2, 4, 8), "server_optimiser": "sgd", "vector_l2": 0.1} | settings
    )
    return Simulation(config, drawn_positives() if positives is None else positives)


def listed(triplets: Triplets, step: int) -> list[tuple[int, int, int, int]]:
    """Interaction, user, item and negative of each triplet of a step, one by one."""
    rows = []
    for n, (pair, user) in enumerate(zip(triplets.pairs.tolist(), triplets.users.tolist(), strict=True)):
        positive, *negatives = triplets.items[triplets.places[step, n]].tolist()
        rows += [(pair, user, positive, negative) for negative in negatives]
    return rows


def changed(positives: Positives, user: int) -> Positives:
    """The same, but for everyone else, who has met other things."""
    other = drawn_positives(positives.num_users, positives.num_items, seed=99)
    keep = (positives.users == user).numpy(), (other.users != user).numpy()
    users = np.concatenate([positives.users.numpy()[keep[0]], other.users.numpy()[keep[1]]])
    items = np.concatenate([positives.items.numpy()[keep[0]], other.items.numpy()[keep[1]]])
    return Positives.from_pairs(users, items, positives.num_users, positives.num_items)


def bpr(user: Tensor, liked: Tensor, other: Tensor, width: int) -> Tensor:
    """softplus(s(u, j) − s(u, i)) of leading columns, by autograd."""
    return torch.nn.functional.softplus((user * (other - liked))[:width].sum())
