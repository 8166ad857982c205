"""What a federation has to beat, or can at best be: each client alone, and the central model.

All narrow, and wide clients only, are scenarios of the simulator itself (`FederatedConfig.scenario`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from mrl.data import Positives
from mrl.federated.clients import Population
from mrl.federated.config import FederatedConfig
from mrl.federated.simulator import Simulation
from mrl.least_squares.ials import frequency_l2, transpose
from mrl.least_squares.nested import solve_blocks


class Central:
    """The central model, round by round: after the same start, sweeps of nested least squares over all interactions.

    It stands in the place of a `Simulation`: a round is a sweep, the start is not counted, and nothing is sent.
    """

    def __init__(self, config: FederatedConfig, positives: Positives):
        self.positives, self.by_item = positives, transpose(positives)
        whole = (*(0.0 for _ in config.widths[1:]), 1.0)
        everybody = {"shares": whole, "scenario": "mixed", "method": "closed_form", "groups": 0}
        always = {"fraction": 1.0, "dropout": 0.0, "stragglers": 0.0, "max_norm": None}
        self.config = replace(config, **everybody, **always)
        start = Simulation(self.config, positives)
        while start.server.round < config.start_rounds:
            start.round()
        self.number, self.users, self.items = 0, start.population.users, start.server.items

    def round(self) -> dict[str, Any]:
        """One sweep."""
        started = time.perf_counter()
        self.number += 1
        self.users = self._solve(self.users, self.items, self.positives)
        self.items = self._solve(self.items, self.users, self.by_item)
        return {"round": self.number, "bytes_up": 0, "bytes_down": 0, "seconds": time.perf_counter() - started}

    def vectors(self) -> tuple[Tensor, Tensor]:
        """Users (U, D) solved by the items (I, D) that there are, as clients do it."""
        return self._solve(self.users, self.items, self.positives), self.items

    def _solve(self, rows: Tensor, other: Tensor, positives: Positives) -> Tensor:
        config = self.config
        l2 = frequency_l2(positives.counts, len(other), alpha0=config.alpha0, l2=config.l2, nu=config.nu)
        levels = {"widths": config.widths, "level_weights": config.weights}
        options = {"alpha0": config.alpha0, "l2_width_exponent": config.l2_width_exponent}
        return solve_blocks(rows, other, positives, l2, **levels, **options)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return {"users": self.users, "items": self.items}, {"round": self.number}

    def load_state(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        self.users, self.items, self.number = tensors["users"], tensors["items"], meta["round"]


def alone_scores(config: FederatedConfig, population: Population) -> Callable[[Tensor], Iterator[tuple[int, Tensor]]]:
    """What users are recommended by a model of their own client's interactions alone, as `evaluate_scores` takes it.

    Items that no user of the client has met are zero, by the rule of least squares. So all that a client of one user
    could be recommended is equally good, and nothing has to be fitted for it.
    """
    items, users = {}, torch.zeros_like(population.users)
    for clients in population.groups() if len(population) < len(population.owner) else ():
        levels, rows = config.widths.index(clients.width) + 1, population.rows_of(clients.ids)
        own = {"widths": config.widths[:levels], "level_weights": config.weights[:levels], "shares": ()}
        for place, client in enumerate(clients.ids.tolist()):
            mine = (clients.owner == place).nonzero()[:, 0]
            rounds = Central(replace(config, **own), clients.positives.take(mine))
            for _ in range(config.pace[0]):
                rounds.round()
            users[rows[mine], : clients.width], items[client] = rounds.vectors()

    def score_blocks(user_rows: Tensor) -> Iterator[tuple[int, Tensor]]:
        rows = user_rows.tolist()
        for width in config.widths:
            scores = torch.zeros(len(rows), population.positives.num_items)
            for line, row in enumerate(rows if items else ()):
                held = items[int(population.owner[row])][:, :width]
                scores[line] = held @ users[row, : held.shape[1]]
            yield width, scores

    return score_blocks
