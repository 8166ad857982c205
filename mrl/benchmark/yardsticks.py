"""What the benchmark measures against: the published way of training and evaluating, and plain vectorised PyTorch.

`published` is written as the code of MRL4Rec and its relatives is: negatives drawn one by one in Python for each user,
items ranked by a heap over a dictionary of scores, one width at a time. `plain` is what one writes who knows PyTorch
and is not after speed: vectorised rejection sampling, a gather a level, autograd, Adam over the whole tables,
`torch.topk` over a chunk of users. Both train the same model by the same loss as `mrl.trainer`, rules rns and dns, and
nothing in them is slower than it has to be in its style.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding, softplus

from mrl.data import Interactions, Positives
from mrl.model import xavier_uniform

STYLES = ("published", "plain")
KS = (10, 20, 50)
PLAIN_METRICS = ("recall", "precision", "ndcg", "hit")


class PlainModel:
    """Tables, optimiser and one training step of BPR at nested widths.

    style: how negatives are drawn. candidates: M a level, the hardest taken; 1 is uniform sampling. hops: of LightGCN,
    0 for matrix factorisation. nested: a negative for each level, or one for all.
    """

    def __init__(
        self,
        positives: Positives,
        widths: Sequence[int],
        *,
        style: str = "plain",
        candidates: int = 16,
        nested: bool = True,
        hops: int = 0,
        learning_rate: float = 1e-3,
        l2: float = 1e-4,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ):
        self.positives, self.device = positives.to(device), torch.device(device)
        self.widths, self.candidates, self.nested, self.hops, self.l2 = tuple(widths), candidates, nested, hops, l2
        self.style, self.random = style, random.Random(seed)
        self.generator = torch.Generator(device).manual_seed(seed)
        init = torch.Generator().manual_seed(seed)
        sizes = (positives.num_users, positives.num_items)
        self.users, self.items = (
            torch.nn.Parameter(xavier_uniform(size, self.widths[-1], init).to(device)) for size in sizes
        )
        self.optimiser = torch.optim.Adam([self.users, self.items], lr=learning_rate, fused=True)
        self.keys = self.positives.keys()
        if style == "published":
            self.seen = [set(positives.of(user).tolist()) for user in range(positives.num_users)]
        if hops:
            self.graph = _graph(self.positives)

    def tables(self) -> tuple[Tensor, Tensor]:
        """Users (U, D) and items (I, D) as they score."""
        if not self.hops:
            return self.users, self.items
        layers = [torch.cat([self.users, self.items])]
        for _ in range(self.hops):
            layers.append(torch.sparse.mm(self.graph, layers[-1]))
        mean = torch.stack(layers).mean(0)
        return mean[: len(self.users)], mean[len(self.users) :]

    def draw(self, users: Tensor, levels: int) -> Tensor:
        """(B, K, M) candidates that are no positives of the users (B,)."""
        if self.style == "published":
            return self._draw_one_by_one(users, levels)
        shape = (len(users), levels, self.candidates)
        drawn = torch.randint(len(self.items), shape, device=self.device, generator=self.generator)
        base = (users * len(self.items))[:, None, None].expand(shape)
        rejected = self._are_positives(base + drawn).nonzero(as_tuple=True)
        while len(rejected[0]):
            redrawn = torch.randint(len(self.items), (len(rejected[0]),), device=self.device, generator=self.generator)
            drawn[rejected] = redrawn
            is_rejected = self._are_positives(base[rejected] + redrawn)
            rejected = tuple(place[is_rejected] for place in rejected)
        return drawn

    def _are_positives(self, keys: Tensor) -> Tensor:
        places = torch.searchsorted(self.keys, keys).clamp_(max=len(self.keys) - 1)
        return self.keys[places] == keys

    def _draw_one_by_one(self, users: Tensor, levels: int) -> Tensor:
        catalogue, drawn = range(len(self.items)), []
        for user in users.tolist():
            seen, candidates = self.seen[user], []
            for _ in range(levels * self.candidates):
                item = self.random.choice(catalogue)
                while item in seen:
                    item = self.random.choice(catalogue)
                candidates.append(item)
            drawn.append(candidates)
        return torch.tensor(drawn, device=self.device).unflatten(1, (levels, self.candidates))

    def step(self, users: Tensor, items: Tensor) -> Tensor:
        """One step on positives (B,) and (B,); returns the loss."""
        user_table, item_table = self.tables()
        widths_with_negative = self.widths if self.nested else self.widths[-1:]
        candidates = self.draw(users, len(widths_with_negative))
        p, q = embedding(users, user_table), embedding(items, item_table)
        ego_p, ego_q = (p, q) if not self.hops else (embedding(users, self.users), embedding(items, self.items))
        ego = ego_p.square().sum() + ego_q.square().sum()
        negatives = []
        with torch.no_grad():
            for level, width in enumerate(widths_with_negative):
                drawn = candidates[:, level]  # (B, M)
                if self.candidates == 1:
                    negatives.append(drawn[:, 0])
                    continue
                scores = torch.einsum("bd,bmd->bm", p[:, :width], embedding(drawn, item_table[:, :width]))
                negatives.append(drawn.gather(1, scores.argmax(1, keepdim=True))[:, 0])
        loss = 0.0
        for level, width in enumerate(self.widths):
            if level < len(negatives):
                negative = embedding(negatives[level], item_table)
                ego = ego + (embedding(negatives[level], self.items) if self.hops else negative).square().sum()
            difference = (p[:, :width] * (negative[:, :width] - q[:, :width])).sum(1)
            loss = loss + softplus(difference).mean() / len(self.widths)
        loss = loss + self.l2 / (2 * len(users)) * ego
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        return loss.detach()

    def run(self, batch_size: int, steps: int | None = None) -> int:
        """One epoch, or its first `steps` batches; returns how many positives were used."""
        order = torch.randperm(len(self.positives), device=self.device, generator=self.generator)
        users, items = self.positives.users.long(), self.positives.items.long()
        used = 0
        for batch in order.split(batch_size)[:steps]:
            self.step(users[batch], items[batch])
            used += len(batch)
        return used


def _graph(positives: Positives) -> Tensor:
    """D^-½ A D^-½ over users and items together, sparse."""
    users, items = positives.users.long(), positives.items.long()
    values = (positives.counts.float()[users] * positives.item_counts.float()[items]).rsqrt()
    rows, columns = torch.cat([users, items + positives.num_users]), torch.cat([items + positives.num_users, users])
    size = positives.num_users + positives.num_items
    return torch.sparse_coo_tensor(
        torch.stack([rows, columns]), values.repeat(2), (size, size), check_invariants=False
    ).coalesce()


def evaluate_plain(
    users: Tensor, items: Tensor, data: Interactions, width: int, chunk: int = 512
) -> dict[tuple[str, int], float]:
    """Test metrics at one width, {(metric, k): mean}: scores of a chunk of users, mask, topk, look up the hits."""
    train, test = data.train.to(users.device), data.test.to(users.device)
    keys = test.keys()
    rows = test.counts.nonzero()[:, 0]
    ranks = torch.arange(2, max(KS) + 2, device=users.device, dtype=torch.float32)
    discount = 1 / ranks.log2()
    sums = torch.zeros(len(PLAIN_METRICS), len(KS), dtype=torch.float32, device=users.device)
    for part in rows.split(chunk):
        scores = users[part, :width] @ items[:, :width].T
        line = torch.repeat_interleave(train.counts[part])
        counts = train.counts[part]
        place = torch.arange(len(line), device=users.device) - (counts.cumsum(0) - counts)[line]
        scores[line, train.items[train.offsets[part][line] + place].long()] = -torch.inf
        top = scores.topk(max(KS)).indices + (part * data.num_items)[:, None]
        hits = (keys[torch.searchsorted(keys, top).clamp_(max=len(keys) - 1)] == top).float()
        relevant = test.counts[part]
        for n, k in enumerate(KS):
            num_hits = hits[:, :k].sum(1)
            ideal = discount.cumsum(0)[relevant.clamp(max=k) - 1]
            gain = (hits[:, :k] * discount[:k]).sum(1) / ideal
            values = (num_hits / relevant, num_hits / k, gain, (num_hits > 0).float())
            sums[:, n] += torch.stack([value.sum() for value in values])
    means = (sums / len(rows)).tolist()
    return {(metric, k): means[m][n] for m, metric in enumerate(PLAIN_METRICS) for n, k in enumerate(KS)}


def evaluate_published(
    users: Tensor, items: Tensor, data: Interactions, width: int, rows: Sequence[int]
) -> dict[tuple[str, int], float]:
    """The same over test users `rows`, ranked one by one: a dictionary of scores, a heap, Python lists."""
    catalogue = set(range(data.num_items))
    sums = np.zeros((len(PLAIN_METRICS), len(KS)))
    for block in torch.as_tensor(rows).split(1024):
        scores = (users[block, :width] @ items[:, :width].T).cpu().numpy()
        for user, rating in zip(block.tolist(), scores, strict=True):
            seen, relevant = set(data.train.of(user).tolist()), set(data.test.of(user).tolist())
            score = {item: rating[item] for item in catalogue - seen}
            best = heapq.nlargest(max(KS), score, key=score.get)
            hits = [float(item in relevant) for item in best]
            for n, k in enumerate(KS):
                num_hits = sum(hits[:k])
                gain = sum(hit / np.log2(rank + 2) for rank, hit in enumerate(hits[:k]))
                ideal = sum(1 / np.log2(rank + 2) for rank in range(min(len(relevant), k)))
                sums[:, n] += (num_hits / len(relevant), num_hits / k, gain / ideal, float(num_hits > 0))
    means = (sums / len(rows)).tolist()
    return {(metric, k): means[m][n] for m, metric in enumerate(PLAIN_METRICS) for n, k in enumerate(KS)}
