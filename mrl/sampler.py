"""Matryoshka negative sampling: uniform unobserved candidates on the device, and a hardness rule a level.

With `nested` (MNS, Lai et al., arXiv 2406.07432) each level draws its own candidates and picks its own negative
by that level's prefix scores; without, one set is drawn, one negative is picked by the full width, and all
levels share it. One code path serves both: shared sampling is nested sampling with the widest width alone.

Rules:
    rns     the first candidate (uniform)                                        Rendle et al., UAI 2009
    dns     the highest score                                                    Zhang et al., SIGIR 2013
    dns_mn  uniformly one of the `topk` highest                                  Shi et al., WWW 2023
    cns     the highest among the first max(1, ⌊(1 − progress)·M⌋): hard to easy
    ahns    the closest to β·(s_pos + α)^(p+1): harder for easier positives      Lai et al., AAAI 2024
    mix     per hop, candidates mixed with the positive, the hardest mix taken   Huang et al., KDD 2021 (MixGCF)
    dens    gates split factors; from the hardest overall to the hardest on the
            factors that are irrelevant to the positive, plus a contrastive loss  Lai et al., WSDM 2023
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, normalize, softplus

from mrl.errors import ConfigError, DataError
from mrl.interactions import Positives
from mrl.widths import check_widths

RULES = ("rns", "dns", "dns_mn", "mix", "cns", "ahns", "dens")
SIMILARITIES = ("inner", "cosine", "distance")


class UniformCandidates:
    """Items a user has not met, drawn uniformly with replacement, exactly and without rejection.

    The r-th unobserved item of a user is r + c, where c counts the positives with no more than r unobserved
    items before them: one binary search a draw. It terminates for users who have nearly everything;
    users who have everything have nothing to draw (`trainable` is False for them).
    """

    def __init__(self, positives: Positives):
        self.num_items = positives.num_items
        self.offsets = positives.offsets
        self.free = positives.num_items - positives.counts  # (U,) unobserved items of each user
        users = positives.users.long()
        rank = torch.arange(len(positives), device=users.device) - self.offsets[users]
        # Unobserved items before each positive, made increasing over the users by a stride of I + 1.
        self._gaps = users * (self.num_items + 1) + positives.items - rank

    @property
    def trainable(self) -> Tensor:
        """(U,) bool: users with at least one unobserved item."""
        return self.free > 0

    def __call__(self, users: Tensor, shape: tuple[int, ...], generator: torch.Generator | None = None) -> Tensor:
        """users: (B,) int64 rows, each trainable. Returns (B, *shape) int64 item rows."""
        rows = (...,) + (None,) * len(shape)
        free = self.free[users][rows]
        draw = torch.rand(len(users), *shape, dtype=torch.float64, device=users.device, generator=generator)
        rank = (draw * free).long().clamp_(max=free - 1)
        found = torch.searchsorted(self._gaps, rank + (users * (self.num_items + 1))[rows], right=True)
        return rank + found - self.offsets[users][rows]


@dataclass(frozen=True, eq=False)
class Negatives:
    """What the sampler hands to the loss.

    items: (B, K) int64 rows, K levels or 1 shared; for `mix` (B, K, H), the candidate of each hop.
    vectors: (B, K, D), through which gradients flow to the item table; for narrow levels only the first d_k
    columns are meant to be read. auxiliary: the rule's own loss, scalar (only `dens` has one; else 0).
    """

    items: Tensor
    vectors: Tensor
    auxiliary: Tensor


class NegativeSampler(nn.Module):
    """Draw candidates and pick one negative a level.

    positives: what must never be drawn. widths: the levels. candidates: M, drawn per level. nested: MNS or shared.
    similarity: what the rules score by: `inner` product, `cosine`, or `distance` (negative squared).
    topk: of `dns_mn`. hardness: (α, β, p) of `ahns`. warmup: share of the training over which `dens` turns from
    plain hardness to irrelevant factors. contrast: weight of the contrastive loss of `dens`.

    `dens` has parameters (its gates, a set a level), which belong into the optimiser with the model's.
    """

    def __init__(
        self,
        positives: Positives,
        widths: Sequence[int],
        *,
        rule: str = "dns",
        candidates: int = 16,
        nested: bool = True,
        similarity: str = "inner",
        topk: int = 4,
        hardness: tuple[float, float, float] = (1.0, 1.0, -2.0),
        warmup: float = 0.2,
        contrast: float = 0.3,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        self.widths = check_widths(widths)
        if rule not in RULES:
            raise ConfigError(f"rule={rule!r}: must be one of {', '.join(RULES)}")
        if similarity not in SIMILARITIES:
            raise ConfigError(f"similarity={similarity!r}: must be one of {', '.join(SIMILARITIES)}")
        if candidates < 1:
            raise ConfigError(f"candidates={candidates}: must be at least 1")
        if rule == "dns_mn" and not 1 <= topk <= candidates:
            raise ConfigError(f"topk={topk}: must be from 1 to the number of candidates ({candidates})")
        self.rule, self.candidates, self.nested, self.similarity = rule, candidates, nested, similarity
        self.topk, self.hardness, self.warmup, self.contrast = topk, hardness, warmup, contrast
        self.draw = UniformCandidates(positives)
        if rule == "dens":
            self.gates = nn.ModuleList(_Gates(width, generator) for width in self.pick_widths)

    @property
    def pick_widths(self) -> tuple[int, ...]:
        """The widths at which a negative is picked: all with MNS, the widest without."""
        return self.widths if self.nested else self.widths[-1:]

    @property
    def trainable(self) -> Tensor:
        return self.draw.trainable

    def forward(
        self,
        user_rows: Tensor,
        users: Tensor,
        positives: Tensor,
        items: Tensor,
        *,
        levels: Tensor | None = None,
        progress: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> Negatives:
        """One negative a level for each (user, positive) of a batch.

        user_rows: (B,) int64. users: (B, D) vectors. positives: (B, D), items: (I, D); for `mix` with a graph
        backbone (B, H, D) and (I, H, D), the embeddings by hop, whose mean over hops scores.
        levels: the levels (n,) of this step, all if None. progress: share of training done, 0 to 1.
        Raises DataError where a user has every item (leave such rows out: `trainable`).
        """
        # Checked on the CPU only: looking at the answer would make a GPU wait.
        if user_rows.device.type == "cpu" and not self.trainable[user_rows].all():
            raise DataError("a user in the batch has every item, so there is no negative; leave out ~sampler.trainable")
        if positives.dim() == 2:
            positives, items = positives.unsqueeze(1), items.unsqueeze(1)  # one hop
        picks = range(len(self.pick_widths)) if levels is None or not self.nested else levels.tolist()
        drawn = 1 if self.rule == "rns" else self.candidates
        candidates = self.draw(user_rows, (len(picks), drawn), generator)  # (B, K, M)
        with torch.no_grad():
            chosen = [
                self._pick(self.pick_widths[level], level, users, positives, items, candidates[:, n], progress, generator)
                for n, level in enumerate(picks)
            ]
        rows = torch.stack([rows for rows, _ in chosen], 1)  # (B, K, H) with H = 1 but for mix
        hops = items.shape[1]
        if self.rule == "mix":
            amount = torch.stack([mix for _, mix in chosen], 1).unsqueeze(-1)  # (B, K, H, 1)
            taken = items[rows, torch.arange(hops, device=rows.device)]  # (B, K, H, D)
            vectors = (amount * positives.unsqueeze(1) + (1 - amount) * taken).mean(2)
        else:
            rows = rows.squeeze(-1)
            vectors = embedding(rows, items.mean(1) if hops > 1 else items.squeeze(1))  # (B, K, D)
        auxiliary = vectors.new_zeros(())
        if self.rule == "dens":
            terms = [
                self.gates[level].contrast(*(x[:, : self.pick_widths[level]] for x in (users, positives.mean(1), vectors[:, n])))
                for n, level in enumerate(picks)
            ]
            auxiliary = self.contrast * torch.stack(terms).mean()
        return Negatives(rows, vectors, auxiliary)

    def _pick(
        self,
        width: int,
        level: int,
        users: Tensor,
        positives: Tensor,
        items: Tensor,
        candidates: Tensor,
        progress: float,
        generator: torch.Generator | None,
    ) -> tuple[Tensor, Tensor | None]:
        """The chosen rows (B, H) of one level's candidates (B, M), and for `mix` the mixing amounts (B, H)."""
        if self.rule == "rns":
            return candidates[:, :1], None
        users, positives = users[:, :width], positives[..., :width]
        if self.rule == "mix":
            return self._pick_mix(users, positives, items[..., :width][candidates], candidates, generator)
        positive = positives.mean(1)
        table = items[..., :width]
        vectors = (table.mean(1) if table.shape[1] > 1 else table.squeeze(1))[candidates]  # (B, M, d_k)
        if self.rule == "dens":
            vectors = self.gates[level].harden(users, positive, vectors, min(1.0, progress / max(self.warmup, 1e-9)))
        scores = self.score(users, vectors)  # (B, M)
        if self.rule == "dns_mn":
            highest = scores.topk(self.topk, dim=1).indices
            one = torch.randint(self.topk, (len(users), 1), device=users.device, generator=generator)
            best = highest.gather(1, one)
        elif self.rule == "ahns":
            alpha, beta, power = self.hardness
            easy = (self.score(users, positive.unsqueeze(1)) + alpha).clamp_min(0.01)  # its power must exist, and stay comparable
            best = (scores - beta * easy.pow(power + 1)).abs().argmin(1, keepdim=True)
        else:
            active = max(1, int((1 - progress) * self.candidates)) if self.rule == "cns" else self.candidates
            best = scores[:, :active].argmax(1, keepdim=True)
        return candidates.gather(1, best), None

    def _pick_mix(
        self, users: Tensor, positives: Tensor, vectors: Tensor, candidates: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        batch, _, hops, _ = vectors.shape  # (B, M, H, d_k)
        amount = torch.rand(batch, hops, device=users.device, generator=generator)
        share = amount[:, None, :, None]
        mixed = share * positives.unsqueeze(1) + (1 - share) * vectors
        hardest = self.score(users, mixed.flatten(1, 2)).unflatten(1, (-1, hops)).argmax(1)  # (B, H)
        return candidates.gather(1, hardest), amount

    def score(self, users: Tensor, vectors: Tensor) -> Tensor:
        """users (B, d), vectors (B, M, d) -> (B, M), by the sampler's similarity."""
        if self.similarity == "distance":
            return -(users.unsqueeze(1) - vectors).square().sum(-1)
        if self.similarity == "cosine":
            users, vectors = normalize(users, dim=-1), normalize(vectors, dim=-1)
        return torch.bmm(vectors, users.unsqueeze(-1)).squeeze(-1)


class _Gates(nn.Module):
    """The hierarchical gates of DENS for one level: which factors made the user like the positive."""

    def __init__(self, width: int, generator: torch.Generator | None):
        super().__init__()
        for name in ("user", "positive", "relevant", "negative"):
            layer = nn.Linear(width, width)
            bound = (3.0 / width) ** 0.5
            with torch.no_grad():
                layer.weight.copy_((torch.rand(width, width, generator=generator) * 2 - 1) * bound)
                layer.bias.zero_()
            self.add_module(name, layer)

    def split(self, users: Tensor, positives: Tensor, negatives: Tensor) -> tuple[Tensor, Tensor]:
        """The relevant part of positives (B, d) and of negatives (B, M, d)."""
        relevant = positives * torch.sigmoid(self.positive(positives) + self.user(users))
        gate = torch.sigmoid(self.negative(negatives) + self.relevant(relevant).unsqueeze(1))
        return relevant, negatives * gate

    def harden(self, users: Tensor, positives: Tensor, negatives: Tensor, progress: float) -> Tensor:
        """What to score candidates by: all of them at first, what is irrelevant to the positive at last."""
        return negatives - progress * self.split(users, positives, negatives)[1]

    def contrast(self, users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
        """Teach the gates: relevant factors favour the positive, irrelevant ones the negative."""
        relevant, shared = self.split(users, positives, negatives.unsqueeze(1))
        shared = shared.squeeze(1)
        scores = [(users * part).sum(-1) for part in (relevant, positives - relevant, shared, negatives - shared)]
        liked, other_liked, wrong, other_wrong = scores
        terms = (wrong - liked, other_liked - other_wrong, other_liked - liked, wrong - other_wrong)
        return sum(softplus(term).mean() for term in terms) / 4
