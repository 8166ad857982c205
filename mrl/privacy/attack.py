"""What a curious server reads from one upload, and from a sum of several.

A user's statistics of least squares (`mrl.federated.closed_form`) are a multiple of p pᵀ for every item it has met, and
zero elsewhere. So the rows that are not zero are the items it has met, and the leading eigenvector of any of them is
its vector up to sign. Of a sum the same reading gives the union of the items and a mean direction, which all users have
more or less in common: a guess that needs no upload. The attack has succeeded where it is better than that guess.

A sum does not protect everyone: the row of an item that only one of its clients has met is p pᵀ of that client, who has
no name there but may be known by the item. Against this helps noise (`mrl.privacy.noise`), not a mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import polars as pl
import torch

from mrl.data import Interactions
from mrl.errors import ConfigError
from mrl.federated import ClosedForm, FederatedConfig, Message, Simulation
from mrl.privacy.masks import FixedPoint, Member, ring

MASKED_AMONG = 3  # clients of the sum of which one masked upload is looked at


def recover_vector(message: Message) -> np.ndarray:
    """(d,): the vector of the block whose statistics a message of the closed form holds, up to sign and length.

    The leading eigenvector of the sum over all items of p pᵀ; zero where it holds nothing.
    """
    upper = message.tensors["outer"].double().sum(0).numpy()
    matrix = np.zeros((len(message.tensors["target"][0]),) * 2)
    matrix[np.triu_indices(len(matrix))] = upper
    values, vectors = np.linalg.eigh(matrix, UPLO="U")
    return vectors[:, -1] * np.sqrt(max(values[-1], 0.0))


def recover_items(message: Message) -> np.ndarray:
    """The rows of a message's statistics that are not zero: the items that its senders have met."""
    return (message.tensors["outer"] != 0).any(1).nonzero()[:, 0].numpy()


def attack_sums(
    simulation: Simulation, summed: Sequence[int], generator: np.random.Generator, *, trials: int = 30
) -> pl.DataFrame:
    """How well one user is read from the first step of the next round, by how many clients its message is summed with.

    simulation: of the closed form, after its start, each client one user. Only clients of the widest width are looked
    at, and nothing changes in it. trials: users that are attacked, drawn at random.
    Columns: summed, masked, cosine (of the true vector and the one that is read), guess (of the true vector and the one
    that is read from the sum of all), found (share of the user's items that are read), right (share of the items read
    that are the user's), exposed (share of users who have an item that no other of the sum has), means over the trials.
    masked: one upload of a secure sum, as it travels.
    Raises ConfigError where the simulation is of another kind, or has fewer clients.
    """
    method = simulation.method
    if not isinstance(method, ClosedForm):
        raise ConfigError(f"method={simulation.config.method!r}: the attack reads uploads of the closed form")
    server = replace(simulation.server, round=simulation.server.round + 1)
    clients = simulation.population.groups()[-1]
    broadcast = method.broadcast(server, clients.width, 0)
    if "directions" in broadcast.tensors or not clients.are_users or max(summed) > len(clients):
        raise ConfigError(
            f"summed={list(summed)}: give 1 to {len(clients)}, after the start, of clients that are users"
        )
    clients, uploads = method.work(clients, broadcast)
    everyone = recover_vector(uploads.total(torch.ones(len(clients))))
    rows = []
    for victim in generator.choice(len(clients), trials, replace=trials > len(clients)):
        true = clients.users[victim, : len(everyone)].double().numpy()
        own = clients.positives.take(torch.tensor([victim])).items.numpy()
        others = generator.permutation(np.delete(np.arange(len(clients)), victim))
        alone = uploads.alone(int(victim))
        readings = [(1, True, _masked(alone, generator))]
        for count in summed:
            scale = torch.zeros(len(clients))
            scale[victim], scale[others[: count - 1]] = 1, 1
            readings.append((count, False, uploads.total(scale)))
        lone = alone.tensors["count"]  # what one client adds to the count of an item
        for count, masked, message in readings:
            exposed = not masked and bool((message.tensors["count"][own] <= lone[own] * 1.5).any())
            items = recover_items(message)
            right = len(np.intersect1d(items, own))
            cosines = {"cosine": _cosine(true, recover_vector(message)), "guess": _cosine(true, everyone)}
            shares = {"found": right / max(len(own), 1), "right": right / max(len(items), 1)}
            rows.append({"summed": count, "masked": masked, **cosines, **shares, "exposed": float(exposed)})
    return pl.DataFrame(rows).group_by("summed", "masked").mean().sort("masked", "summed")


def attack_federation(
    config: FederatedConfig, data: Interactions, summed: Sequence[int], *, trials: int = 30
) -> pl.DataFrame:
    """`attack_sums` after all rounds of a config; of `summed` what there are clients for, and all of them."""
    simulation = Simulation(config, data.train)
    for _ in range(config.rounds):
        simulation.round()
    clients = len(simulation.population)
    counts = [count for count in summed if count < clients]
    return attack_sums(simulation, [*counts, clients], np.random.default_rng(config.seed), trials=trials)


def _masked(message: Message, generator: np.random.Generator) -> Message:
    """A message as it travels in a secure sum, read as if it had no mask."""
    graph = ring(range(MASKED_AMONG), 2, generator)
    members = [Member(number, graph[number], 2, generator) for number in graph]
    publics = {member.number: member.public for member in members}
    fixed = FixedPoint(MASKED_AMONG, 1.0 + message.norm)
    tensors = {}
    for name, tensor in message.tensors.items():
        masked = fixed.decode(Member(0, graph[0], 2, generator).mask(fixed.encode(tensor.numpy()), publics))
        tensors[name] = torch.from_numpy(masked)
    return replace(message, tensors=tensors)


def _cosine(one: np.ndarray, other: np.ndarray) -> float:
    """The absolute cosine; 0 where one is zero."""
    norms = np.linalg.norm(one) * np.linalg.norm(other)
    return float(abs(one @ other) / norms) if norms else 0.0
