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
from torch.nn.functional import embedding, softplus

from mrl.data import Positives
from mrl.errors import ConfigError, DataError
from mrl.kernels import fast_paths
from mrl.kernels.candidates import SIMILARITIES, UniformCandidates, level_scores, pick_hardest, similarity
from mrl.widths import check_widths

RULES = ("rns", "dns", "dns_mn", "mix", "cns", "ahns", "dens")
CHECKED = 4096  # users of a batch whose scores are compared: float32 scores of all might not fit the memory


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
    score_dtype: what candidates are scored in where the highest inner products are wanted (dns, dns_mn, cns). bfloat16
    halves what has to be read of them, and only tells which are picked: the loss has the vectors' own type. It checks
    itself against float32 once a run (`mrl.kernels.fast_paths`).

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
        score_dtype: torch.dtype = torch.float32,
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
        highest = rule in ("dns", "dns_mn", "cns") and similarity == "inner"
        self.score_dtype = score_dtype if highest else torch.float32
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
        levels: Sequence[int] | None = None,
        progress: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> Negatives:
        """One negative a level for each (user, positive) of a batch.

        user_rows: (B,) int64. users: (B, D) vectors. positives: (B, D), items: (I, D); for `mix` with a graph
        backbone (B, H, D) and (I, H, D), the embeddings by hop, whose mean over hops scores.
        levels: those of this step, all if None. progress: share of training done, 0 to 1.
        Raises DataError where a user has every item (leave such rows out: `trainable`).
        """
        step = self.step(user_rows, levels, progress, generator)
        if positives.dim() == 2:
            positives, items = positives.unsqueeze(1), items.unsqueeze(1)  # one hop
        if self.rule == "mix":
            return self._mix(step, users, positives, items)
        table = items.mean(1) if items.shape[1] > 1 else items.squeeze(1)  # (I, D)
        positives = positives.mean(1)  # (B, D)
        with torch.no_grad():
            rows = self._pick_compiled(step, torch.arange(len(users)), users, table)
            if rows is None:
                rows = self._pick(step, users, positives, table)
        vectors = embedding(rows, table)  # (B, K, D)
        auxiliary = vectors.new_zeros(())
        if self.rule == "dens":
            terms = [
                self.gates[level].contrast(users[:, :width], positives[:, :width], vectors[:, n, :width])
                for n, (level, width) in enumerate(step.picks)
            ]
            auxiliary = self.contrast * torch.stack(terms).mean()
        return Negatives(rows, vectors, auxiliary)

    @torch.no_grad()
    def pick(
        self,
        user_rows: Tensor,
        item_rows: Tensor,
        users: Tensor,
        items: Tensor,
        *,
        levels: Sequence[int] | None = None,
        progress: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The negatives (B, K) alone, of positives item_rows (B,), by whole tables (U, D) and (I, D); not for `mix`."""
        step = self.step(user_rows, levels, progress, generator)
        rows = self._pick_compiled(step, user_rows, users, items)
        if rows is None:
            rows = self._pick(step, embedding(user_rows, users), embedding(item_rows, items), items)
        return rows

    def step(
        self,
        user_rows: Tensor,
        levels: Sequence[int] | None,
        progress: float,
        generator: torch.Generator | None,
        places: Tensor | None = None,
        size: int = 0,
    ) -> Step:
        """What is to be drawn for, and by what; places, size: of `Step`, where the rows are some of a larger batch."""
        # On the CPU only: looking at the answer would make a GPU wait.
        if user_rows.device.type == "cpu" and not self.trainable[user_rows].all():
            raise DataError("a user in the batch has every item, so there is no negative; leave out ~sampler.trainable")
        picks = range(len(self.pick_widths)) if levels is None or not self.nested else levels
        picks = [(pick, self.pick_widths[pick]) for pick in picks]
        return Step(user_rows, picks, progress, generator, places, size or len(user_rows))

    def _active(self, progress: float) -> int:
        """How many of the candidates count."""
        return max(1, int((1 - progress) * self.candidates)) if self.rule == "cns" else self.candidates

    def _pick_compiled(self, step: Step, places: Tensor, users: Tensor, items: Tensor) -> Tensor | None:
        """(B, K) in one compiled pass, where there is one; users[places] are the vectors (B, D) of the batch."""
        inner = self.similarity == "inner" and users.dtype == self.score_dtype == torch.float32
        if self.rule not in ("dns", "cns") or not inner or not self.draw.compiled:
            return None
        active = self._active(step.progress)
        sizes = step.widths, self.candidates, active
        return pick_hardest(self.draw, step.user_rows, places, users, items, *sizes, step.generator)

    def _pick(self, step: Step, users: Tensor, positives: Tensor, items: Tensor) -> Tensor:
        """(B, K) for users and positives (B, D)."""
        candidates = self.draw_candidates(step)
        return self.pick_among(step, candidates, users, positives, items, candidates)

    def draw_candidates(self, step: Step) -> Tensor:
        """(B, K, M): items among which the rule picks; of rns M is 1."""
        count = 1 if self.rule == "rns" else self.candidates
        return self.draw(step.user_rows, (len(step.picks), count), step.generator, step.places)

    @torch.no_grad()
    def pick_among(
        self, step: Step, candidates: Tensor, users: Tensor, positives: Tensor, items: Tensor, rows: Tensor
    ) -> Tensor:
        """(B, K): which of the candidates (B, K, M) the rule picks, for users and positives (B, D).

        rows (B, K, M): where the candidates' vectors stand in `items`; not looked at for rns.
        """
        if self.rule == "rns":
            return candidates[..., 0]
        chosen = self._choose(step, users, positives, items, rows)
        return candidates.gather(2, chosen.unsqueeze(-1)).squeeze(-1)

    def _choose(self, step: Step, users: Tensor, positives: Tensor, table: Tensor, candidates: Tensor) -> Tensor:
        """(B, K): which of each level's candidates (B, K, M) the rule picks."""
        if self.rule == "dens":
            ramp = min(1.0, step.progress / max(self.warmup, 1e-9))
            hardened = []
            for n, (level, width) in enumerate(step.picks):
                anchors, liked = users[:, :width], positives[:, :width]
                vectors = self.gates[level].harden(anchors, liked, table[:, :width][candidates[:, n]], ramp)
                hardened.append(similarity(self.similarity, anchors, vectors))
            scores = torch.stack(hardened, 1)
        else:
            scores = self._scores(users, table, candidates, step.widths)  # (B, K, M)
        if self.rule == "dns_mn":
            highest = scores.topk(self.topk, dim=2).indices
            size = step.size, highest.shape[1], 1
            one = torch.randint(self.topk, size, device=highest.device, generator=step.generator)
            return highest.gather(2, one if step.places is None else one[step.places]).squeeze(2)
        if self.rule == "ahns":
            alpha, beta, power = self.hardness
            of_positives = [similarity(self.similarity, users[:, :w], positives[:, None, :w]) for w in step.widths]
            # Kept above zero, or the power has no value.
            easiness = (torch.stack(of_positives, 1) + alpha).clamp_min(0.01)  # (B, K, 1)
            return (scores - beta * easiness.pow(power + 1)).abs().argmin(2)
        return scores[..., : self._active(step.progress)].argmax(2)

    def _scores(self, users: Tensor, table: Tensor, candidates: Tensor, widths: Sequence[int]) -> Tensor:
        """(B, K, M) float32, made in `score_dtype` where that is accurate on this device."""

        def score(dtype: torch.dtype, batch: slice) -> Tensor:
            tables = users[batch].to(dtype), table.to(dtype)
            return level_scores(self.similarity, *tables, candidates[batch], widths).float()

        def difference(fast: Tensor, plain: Tensor) -> str | None:
            sizes = level_scores(self.similarity, users[some].abs(), table.abs(), candidates[some], widths)
            return fast_paths.score_difference(fast, plain, sizes)

        everyone, some = slice(None), slice(CHECKED)
        if self.score_dtype != torch.float32 and fast_paths.is_usable(
            fast_paths.BFLOAT16_CANDIDATES,
            lambda: score(self.score_dtype, some),
            lambda: score(torch.float32, some),
            difference,
        ):
            return score(self.score_dtype, everyone)
        return score(torch.float32, everyone)

    def _mix(self, step: Step, users: Tensor, positives: Tensor, items: Tensor) -> Negatives:
        """Per level and hop, the hardest mix of a candidate with the positive; the negative is their mean over hops."""
        candidates = self.draw_candidates(step)  # (B, K, M)
        chosen, share = self.pick_mixes(step, candidates, users, positives, items, candidates)
        negatives = items[chosen, torch.arange(items.shape[1], device=chosen.device)]  # (B, K, H, D)
        vectors = mix_hops(share, positives, negatives)
        return Negatives(chosen, vectors, vectors.new_zeros(()))

    @torch.no_grad()
    def pick_mixes(
        self, step: Step, candidates: Tensor, users: Tensor, positives: Tensor, items: Tensor, rows: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Which of the candidates (B, K, M) `mix` picks, (B, K, H), and the share that positives have (B, K, H).

        users (B, D); positives (B, H, D). rows (B, K, M): where the candidates' vectors stand in items (…, H, D).
        """
        hops = positives.shape[1]
        size = step.size, len(step.widths), hops
        amount = torch.rand(size, dtype=users.dtype, device=users.device, generator=step.generator)
        amount, picked = amount if step.places is None else amount[step.places], []
        for level, width in enumerate(step.widths):
            share = amount[:, level, None, :, None]  # (B, 1, H, 1)
            vectors = items[..., :width][rows[:, level]]  # (B, M, H, d_k)
            mixed = share * positives[:, None, :, :width] + (1 - share) * vectors
            scores = similarity(self.similarity, users[:, :width], mixed.flatten(1, 2)).unflatten(1, mixed.shape[1:3])
            picked.append(candidates[:, level].gather(1, scores.argmax(1)))  # (B, H)
        return torch.stack(picked, 1), amount


def mix_hops(share: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
    """(B, K, D): negatives (B, K, H, D) mixed with positives (B, H, D), of which they have a share (B, K, H)."""
    share = share.unsqueeze(-1)
    return (share * positives.unsqueeze(1) + (1 - share) * negatives).mean(2)


@dataclass(frozen=True, eq=False)
class Step:
    """What a batch draws for: its users (B,), the picks (place in `pick_widths`, width), and how far training is.

    places: (B,), where the users stand in a larger batch of so many rows; None for all of it.
    """

    user_rows: Tensor
    picks: list[tuple[int, int]]
    progress: float
    generator: torch.Generator | None
    places: Tensor | None
    size: int

    @property
    def widths(self) -> list[int]:
        return [width for _, width in self.picks]


class _Gates(nn.Module):
    """The hierarchical gates of DENS for one level: which factors made the user like the positive."""

    def __init__(self, width: int, generator: torch.Generator | None):
        super().__init__()
        for name in ("user", "positive", "relevant", "negative"):
            layer = nn.Linear(width, width, dtype=torch.float32)
            bound = (3.0 / width) ** 0.5
            with torch.no_grad():
                layer.weight.copy_((torch.rand(width, width, dtype=torch.float32, generator=generator) * 2 - 1) * bound)
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
