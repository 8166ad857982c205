"""The sampler: exactness of the candidates, each rule against a slow loop, and its edge cases."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mrl.data.interactions import Positives
from mrl.errors import ConfigError, DataError
from mrl.kernels.candidates import SIMILARITIES, level_scores
from mrl.kernels.fast_paths import check_anew, verdicts
from mrl.sampler import RULES, NegativeSampler

WIDTHS = (2, 4, 8)


def random_positives(seed: int, num_users: int = 12, num_items: int = 30, share: float = 0.4) -> Positives:
    met = np.random.default_rng(seed).random((num_users, num_items)) < share
    return Positives.from_pairs(*np.nonzero(met), num_users, num_items)


def batch_of(positives: Positives, seed: int = 0, hops: int | None = None) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    shape = (8,) if hops is None else (hops, 8)
    users = torch.randn(positives.num_users, *shape, generator=generator)
    items = torch.randn(positives.num_items, *shape, generator=generator)
    rows = positives.users.long()
    anchors = users[rows] if hops is None else users[rows].mean(1)
    return rows, anchors, items[positives.items.long()], items


def test_a_user_who_has_every_item_is_not_trainable_and_refused() -> None:
    positives = Positives.from_pairs([0, 0, 1], [0, 1, 1], 2, 2)
    sampler = NegativeSampler(positives, [2])
    assert sampler.trainable.tolist() == [False, True]
    with pytest.raises(DataError, match="has every item"):
        sampler(torch.tensor([0]), torch.zeros(1, 2), torch.zeros(1, 2), torch.zeros(2, 2))


def slow_similarity(kind: str, u: np.ndarray, v: np.ndarray) -> float:
    if kind == "cosine":
        return float(u @ v / (np.linalg.norm(u) * np.linalg.norm(v)))
    return float(u @ v) if kind == "inner" else -float(((u - v) ** 2).sum())


@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("rule", ["rns", "dns", "cns", "ahns"])
def test_deterministic_rules_pick_what_a_slow_loop_picks(rule: str, nested: bool, similarity: str) -> None:
    positives = random_positives(0)
    rows, users, liked, items = batch_of(positives)
    hardness = (1.0, 0.7, -2.0)
    sampler = NegativeSampler(
        positives, WIDTHS, rule=rule, candidates=7, nested=nested, similarity=similarity, hardness=hardness
    )
    picked = sampler(rows, users, liked, items, progress=0.5, generator=torch.Generator().manual_seed(3))
    drawn_each = 1 if rule == "rns" else 7
    levels = WIDTHS if nested else WIDTHS[-1:]
    candidates = sampler.draw(rows, (len(levels), drawn_each), torch.Generator().manual_seed(3))
    assert picked.items.shape == (len(rows), len(levels))
    for b in range(len(rows)):
        for level, width in enumerate(levels):
            drawn_items = candidates[b, level].tolist()
            u, p = users[b, :width].double().numpy(), liked[b, :width].double().numpy()
            scores = [slow_similarity(similarity, u, items[j, :width].double().numpy()) for j in drawn_items]
            if rule == "rns":
                best = 0
            elif rule == "ahns":
                target = 0.7 * max(slow_similarity(similarity, u, p) + 1.0, 0.01) ** -1.0
                best = int(np.argmin([abs(score - target) for score in scores]))
            else:
                best = int(np.argmax(scores[: 3 if rule == "cns" else 7]))  # cns at half time: ⌊0.5 · 7⌋
            assert picked.items[b, level] == drawn_items[best]
    torch.testing.assert_close(picked.vectors, items[picked.items])


def test_dns_mn_picks_each_of_the_topk_highest_and_nothing_else() -> None:
    positives = random_positives(1)
    rows, users, liked, items = batch_of(positives)
    sampler = NegativeSampler(positives, [8], rule="dns_mn", candidates=10, topk=3)
    picked = sampler(rows, users, liked, items, generator=torch.Generator().manual_seed(5)).items[:, 0]
    candidates = sampler.draw(rows, (1, 10), torch.Generator().manual_seed(5))[:, 0]
    scores = (items[candidates] * users.unsqueeze(1)).sum(-1)
    rank = (scores > (items[picked] * users).sum(1, keepdim=True)).sum(1)
    assert set(rank.tolist()) == {0, 1, 2}


@pytest.mark.parametrize("nested", [True, False])
def test_mix_takes_the_hardest_mix_of_each_hop(nested: bool) -> None:
    positives = random_positives(2)
    rows, users, liked, items = batch_of(positives, hops=3)
    sampler = NegativeSampler(positives, WIDTHS, rule="mix", candidates=6, nested=nested)
    picked = sampler(rows, users, liked, items, generator=torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(1)
    levels = WIDTHS if nested else WIDTHS[-1:]
    candidates = sampler.draw(rows, (len(levels), 6), generator)
    amounts = torch.rand(len(rows), len(levels), 3, generator=generator)
    for level, width in enumerate(levels):
        for b in range(len(rows)):
            total = torch.zeros(8)
            for hop in range(3):
                a = amounts[b, level, hop]
                mixes = a * liked[b, hop] + (1 - a) * items[candidates[b, level], hop]
                total += mixes[(mixes[:, :width] @ users[b, :width]).argmax()] / 3
            torch.testing.assert_close(picked.vectors[b, level], total)


def test_dens_turns_from_plain_hardness_to_irrelevant_factors_and_teaches_its_gates() -> None:
    positives = random_positives(3)
    rows, users, liked, items = batch_of(positives)
    sampler = NegativeSampler(positives, WIDTHS, rule="dens", candidates=6, generator=torch.Generator().manual_seed(0))
    assert len(sampler.gates) == 3 and sum(p.numel() for p in sampler.parameters()) == 4 * (4 + 2 + 16 + 4 + 64 + 8)
    plain = NegativeSampler(positives, WIDTHS, rule="dns", candidates=6)
    generators = [torch.Generator().manual_seed(2) for _ in range(3)]
    early = sampler(rows, users, liked, items, progress=0.0, generator=generators[0])
    late = sampler(rows, users, liked, items, progress=1.0, generator=generators[1])
    hardest = plain(rows, users, liked, items, generator=generators[2])
    assert torch.equal(early.items, hardest.items)
    assert not torch.equal(late.items, hardest.items)
    optimiser = torch.optim.Adam(sampler.parameters(), lr=0.02)
    losses = []
    for _ in range(60):
        optimiser.zero_grad()
        auxiliary = sampler(rows, users, liked, items, generator=torch.Generator().manual_seed(2)).auxiliary
        auxiliary.backward()
        optimiser.step()
        losses.append(auxiliary.item())
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("nested", [True, False])
def test_every_rule_passes_gradients_to_the_items_and_a_subset_of_levels(rule: str, nested: bool) -> None:
    positives = random_positives(4)
    rows, users, liked, items = batch_of(positives)
    items.requires_grad_()
    sampler = NegativeSampler(positives, WIDTHS, rule=rule, nested=nested, generator=torch.Generator().manual_seed(0))
    picked = sampler(rows, users, liked, items, levels=(0, 2), generator=torch.Generator())
    assert picked.vectors.shape == (len(rows), 2 if nested else 1, 8)
    picked.vectors.sum().backward()
    assert items.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rule": "hard"}, "rule='hard'"),
        ({"similarity": "dot"}, "similarity='dot'"),
        ({"candidates": 0}, "candidates=0"),
        ({"rule": "dns_mn", "topk": 99}, "topk=99"),
    ],
)
def test_bad_settings_are_named(options: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        NegativeSampler(random_positives(0), WIDTHS, **options)


def short_and_plain_picks(rule: str, device: str = "cpu") -> tuple[torch.Tensor, torch.Tensor, dict[str, str]]:
    """The second batch of a run, picked by scores in bfloat16 and in float32 of the same candidates; the verdicts."""
    positives = random_positives(6, 300, 500, 0.1)
    rows, users, liked, items = (table.to(device) for table in batch_of(positives))
    with check_anew():
        picks = []
        for dtype in (torch.bfloat16, torch.float32):
            sampler = NegativeSampler(positives.to(device), WIDTHS, rule=rule, score_dtype=dtype)
            options = {"progress": 0.5, "generator": torch.Generator(device).manual_seed(0)}
            picks += [sampler(rows, users, liked, items, **options).items for _ in range(2)][-1:]
        return *picks, verdicts()


@pytest.mark.parametrize("rule", ["dns", "dns_mn", "cns"])
def test_bfloat16_is_used_where_it_flips_near_ties_only(rule: str) -> None:
    short, plain, found = short_and_plain_picks(rule)
    assert 0 < (short != plain).double().mean() < 0.05 and found == {"bfloat16_candidates": "used"}


@pytest.mark.parametrize("wrong", ["scores", "raises"])
@pytest.mark.parametrize("rule", ["dns", "dns_mn", "cns"])
def test_bfloat16_that_is_wrong_is_off_and_negatives_are_those_of_float32(monkeypatch, rule: str, wrong: str) -> None:
    def broken(kind, users, items, candidates, widths):
        if users.dtype == torch.bfloat16 and wrong == "raises":
            raise RuntimeError("CUBLAS_STATUS_NOT_SUPPORTED")
        return level_scores(kind, users, items.roll(int(users.dtype == torch.bfloat16), 0), candidates, widths)

    monkeypatch.setattr("mrl.sampler.level_scores", broken)
    with pytest.warns(UserWarning) as warned:
        short, plain, found = short_and_plain_picks(rule)
    assert torch.equal(short, plain)
    (message,) = [str(each.message) for each in warned]
    why = "of the scores are off by more than bfloat16 rounds" if wrong == "scores" else "CUBLAS_STATUS_NOT_SUPPORTED"
    assert message.startswith("bfloat16_candidates is off, so candidates are scored in float32: ") and why in message
    assert found["bfloat16_candidates"].startswith("off: ") and found["bfloat16_candidates"][5:] in message


def test_float32_candidates_are_not_compared_with_anything() -> None:
    with check_anew():
        positives = random_positives(0)
        rows, users, liked, items = batch_of(positives)
        NegativeSampler(positives, WIDTHS, rule="dns_mn")(rows, users, liked, items)
        assert verdicts() == {}


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("rule", ["dns", "dns_mn", "cns"])
def test_bfloat16_is_used_on_a_gpu(rule: str) -> None:
    short, plain, found = short_and_plain_picks(rule, "cuda")
    assert (short != plain).double().mean() < 0.05 and found == {"bfloat16_candidates": "used"}


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("rule", ["rns", "dns", "cns", "ahns"])
def test_cuda_picks_what_the_cpu_picks_from_the_same_candidates(rule: str) -> None:
    positives = random_positives(5)
    rows, users, liked, items = batch_of(positives)
    one, other = (NegativeSampler(positives.to(device), WIDTHS, rule=rule) for device in ("cpu", "cuda"))
    candidates = one.draw(rows, (3, 1 if rule == "rns" else 16), torch.Generator().manual_seed(0))
    other.draw = lambda *_: candidates.cuda()
    one.draw = type("Fixed", (), {"trainable": one.trainable, "__call__": lambda *_: candidates})()
    picked = other(rows.cuda(), users.cuda(), liked.cuda(), items.cuda())
    assert torch.equal(picked.items.cpu(), one(rows, users, liked, items).items)
