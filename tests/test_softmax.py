"""The nested softmax against loops in double precision: its loss, its gradients, its penalty and its draws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import softplus

from mrl import softmax
from mrl.data.interactions import Positives
from mrl.errors import ConfigError
from mrl.softmax import NestedSoftmax, _chances

WIDTHS, WEIGHTS = (2, 3, 6), (0.2, 0.3, 0.5)
USERS, ITEMS = 8, 11
SOME = pytest.mark.parametrize("drawn", [ITEMS, 6])
TAUGHT = pytest.mark.parametrize("taught", [False, True], ids=["alone", "taught"])


def liked() -> Positives:
    """User 0 likes one item, user 1 all but one, user 2 all; all of them like item 4."""
    likes = np.random.default_rng(0).random((USERS, ITEMS)) < 0.4
    likes[0], likes[1], likes[2] = False, True, True
    likes[1, 7], likes[:, 4] = False, True
    return Positives.from_pairs(*np.nonzero(likes), USERS, ITEMS)


def tables(rows: int = USERS, items: int = ITEMS, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(count, 6, dtype=dtype, generator=generator).requires_grad_() for count in (rows, items)]


def drawing(monkeypatch, drawn: int, positives: Positives | None = None, taught: bool = False) -> NestedSoftmax:
    monkeypatch.setattr(softmax, "ITEMS", drawn)
    monkeypatch.setattr(softmax, "TEACHING", 0.7)
    return NestedSoftmax(positives or liked(), WIDTHS, WEIGHTS, teacher=teacher() if taught else None)


def teacher(items: int = ITEMS // 2) -> tuple[torch.Tensor, torch.Tensor]:
    """Some unseen items of each user, and how likely they are: fewer where there are no more."""
    rng = np.random.default_rng(2)
    wanted, likely = np.zeros((USERS, items), np.int32), np.zeros((USERS, items))
    for user in range(USERS):
        unseen = np.setdiff1d(np.arange(ITEMS), liked().of(user).numpy())
        count = min(items, len(unseen))
        wanted[user, :count] = rng.permutation(unseen)[:count]
        likely[user, :count] = rng.dirichlet(np.ones(count)) if count else 0
    return torch.from_numpy(wanted), torch.from_numpy(likely)


def seeded(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def slow(loss: NestedSoftmax, rows: list[int], users, items, levels=range(3)) -> tuple[torch.Tensor, list[float]]:
    """The same by a loop over pairs: of each level its term, and their weighted sum."""
    everything = loss.drawn == len(items)
    sample = range(len(items)) if everything else torch.multinomial(loss.popularity, loss.drawn, generator=seeded())
    log_chance = loss.log_chance.double()
    known = [set(loss.positives.of(row).tolist()) for row in rows]
    total, terms = 0.0, []
    for level in levels:
        scores = users[:, : WIDTHS[level]] @ items[:, : WIDTHS[level]].T
        term = []
        for row, own in enumerate(known):
            others = [item for item in map(int, sample) if item not in own]
            for item in own:
                if not others:
                    term.append(torch.zeros(()))
                    continue
                log_z = (scores[row, others] - log_chance[others]).exp().sum().log()
                term.append(softplus(log_z - scores[row, item]))
                if loss.teacher is not None:
                    named = zip(*(table[rows[row]].tolist() for table in loss.teacher), strict=True)
                    said = {item: chance for item, chance in named if chance}
                    wanted = torch.tensor([said.get(item, 0.0) for item in others]).double() / log_chance[others].exp()
                    if wanted.any():
                        wanted, found = wanted / wanted.sum(), (scores[row, others] - log_chance[others]).log_softmax(0)
                        term[-1] = term[-1] + 0.7 * (torch.xlogy(wanted, wanted) - wanted * found).sum()
        terms.append(sum(term) / len(term))
        total = total + WEIGHTS[level] * 3 / len(levels) * terms[-1]
    return total, [term.item() for term in terms]


@SOME
@TAUGHT
@pytest.mark.parametrize("levels", [None, (1,), (0, 2)])
def test_the_loss_and_its_gradients_are_those_of_a_loop(monkeypatch, drawn, taught, levels) -> None:
    loss, rows = drawing(monkeypatch, drawn, taught=taught), [5, 0, 1, 2, 3]
    assert loss.drawn == drawn
    users, items = tables(len(rows))
    total, terms = loss(torch.tensor(rows), users, items, levels, seeded())
    (3 * total).backward()
    own = [table.detach().clone().requires_grad_() for table in (users, items)]
    expected, by_level = slow(loss, rows, *own, levels or range(3))
    (3 * expected).backward()
    assert total.item() == pytest.approx(expected.item(), rel=1e-6)
    assert terms.tolist() == pytest.approx(by_level, rel=1e-6) and not terms.requires_grad
    for found, other in zip((users, items), own, strict=True):
        torch.testing.assert_close(found.grad, other.grad, rtol=1e-6, atol=1e-9)


@SOME
@TAUGHT
def test_gradients_are_those_of_finite_differences(monkeypatch, drawn, taught) -> None:
    loss, rows = drawing(monkeypatch, drawn, taught=taught), torch.tensor([4, 0, 1, 2])
    users, items = tables(len(rows))
    assert torch.autograd.gradcheck(lambda *both: loss(rows, *both, None, seeded())[0], (users, items))


@TAUGHT
@pytest.mark.parametrize("at_a_time", [1, 3, 7])
def test_users_may_be_taken_some_at_a_time(monkeypatch, taught, at_a_time) -> None:
    found = []
    for numbers in (10**6, at_a_time * ITEMS):
        monkeypatch.setattr(softmax, "NUMBERS", (numbers, numbers))
        users, items = tables()
        total, terms = drawing(monkeypatch, ITEMS, taught=taught)(torch.arange(USERS), users, items)
        total.backward()
        found.append((total.detach(), terms, users.grad, items.grad))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_a_pupil_that_ranks_as_its_teacher_has_nothing_to_learn_of_it(monkeypatch) -> None:
    users, items = tables()
    scores = (users @ items.T).detach()
    scores[liked().users.long(), liked().items.long()] = -torch.inf
    likely, wanted = scores.softmax(1).nan_to_num(0.0).sort(descending=True)
    found = []
    for each in (None, (wanted, likely)):
        loss, _ = NestedSoftmax(liked(), (6,), teacher=each)(torch.arange(USERS), users, items)
        found.append([loss, *torch.autograd.grad(loss, (users, items))])
    for alone, taught in zip(*found, strict=True):
        torch.testing.assert_close(alone, taught)


def test_the_draws_come_from_the_generator(monkeypatch) -> None:
    loss, rows = drawing(monkeypatch, 6), torch.arange(USERS)
    one, again, other = (loss(rows, *tables(), generator=seeded(seed))[0] for seed in (0, 0, 1))
    assert torch.equal(one, again) and not torch.equal(one, other)


def test_a_random_subset_of_levels_has_the_whole_loss_as_its_mean() -> None:
    loss, rows = NestedSoftmax(liked(), WIDTHS, WEIGHTS), torch.arange(USERS)
    parts = [loss(rows, *tables(), (level,))[0] for level in range(3)]
    torch.testing.assert_close(sum(parts) / 3, loss(rows, *tables())[0])
    equal = NestedSoftmax(liked(), WIDTHS)(rows, *tables())
    torch.testing.assert_close(equal[0], equal[1].mean())


def test_users_who_like_nothing_or_everything_pull_nothing() -> None:
    positives = Positives.from_pairs([0, 0, 1, 1, 1], [0, 2, 0, 1, 2], 3, 3)
    users, items = tables(3, 3)
    total, _ = NestedSoftmax(positives, WIDTHS)(torch.arange(3), users, items)
    total.backward()
    assert users.grad[0].any() and not users.grad[1:].any() and total.isfinite()
    alone, _ = NestedSoftmax(positives, WIDTHS)(torch.tensor([0]), users[:1], items)
    assert total.item() == pytest.approx(2 / 5 * alone.item())  # a mean over positives


def test_large_scores_do_not_overflow() -> None:
    users, items = tables(USERS, ITEMS, torch.float32)
    total, _ = NestedSoftmax(liked(), WIDTHS)(torch.arange(USERS), 1e3 * users, 1e3 * items)
    total.backward()
    assert total.isfinite() and users.grad.isfinite().all() and items.grad.isfinite().all()


@pytest.mark.parametrize("drawn", [1, 8, 20, 39])
def test_chances_add_up_to_the_number_and_are_the_frequencies_of_the_draws(drawn) -> None:
    popularity = torch.rand(40, generator=seeded()) ** 2 + 0.01
    chances = _chances(popularity, drawn)
    assert chances.sum().item() == pytest.approx(drawn, rel=1e-5) and chances.min() > 0 and chances.max() <= 1
    draws = torch.multinomial(popularity.expand(8000, -1), drawn, generator=seeded())
    frequencies = torch.bincount(draws.flatten(), minlength=40) / 8000
    torch.testing.assert_close(chances, frequencies, rtol=0, atol=0.025)
    assert chances[popularity.argsort()].diff().min() >= 0


@pytest.mark.parametrize(("items", "drawn"), [(1_000, 1_000), (5_000, 2_048), (20_000, 4_000), (100_000, 8_192)])
def test_a_fifth_of_the_items_is_drawn_within_bounds(items, drawn) -> None:
    assert NestedSoftmax(Positives.from_pairs([0], [0], 1, items), WIDTHS).drawn == drawn


def test_all_items_are_drawn_for_certain() -> None:
    assert _chances(torch.rand(40) + 0.01, 40).eq(1).all()
    assert NestedSoftmax(liked(), WIDTHS).log_chance.eq(0).all()


def test_chances_of_very_unequal_items_are_found() -> None:
    popularity = torch.cat([torch.full((5,), 1e6), torch.ones(20_000)])
    chances = _chances(popularity, 2000)
    assert chances[:5].eq(1).all() and chances.sum().item() == pytest.approx(2000, rel=1e-4)


def test_the_estimate_is_close_to_the_loss_of_all_items(monkeypatch) -> None:
    likes = np.random.default_rng(0).random((30, 400)) < np.linspace(0.01, 0.3, 400)
    positives = Positives.from_pairs(*np.nonzero(likes), 30, 400)
    users, items = (0.7 * table.detach() for table in tables(30, 400, torch.float32))
    rows = torch.arange(30)
    exact = drawing(monkeypatch, 400, positives)(rows, users, items)[1]
    some = drawing(monkeypatch, 100, positives)
    mean = torch.stack([some(rows, users, items, generator=seeded(seed))[1] for seed in range(200)]).mean(0)
    torch.testing.assert_close(mean, exact, rtol=0.01, atol=0)
    some.log_chance.zero_()  # a sum over the sample alone is another loss
    assert (some(rows, users, items, generator=seeded())[1] < 0.9 * exact).all()


def test_the_penalty_is_that_of_a_loop_over_pairs() -> None:
    positives, (users, items) = liked(), tables()
    expected = 0.0
    for user, item in zip(positives.users.tolist(), positives.items.tolist(), strict=True):
        for width, weight in zip(WIDTHS, WEIGHTS, strict=True):
            own, other = users[user, :width].square().sum(), items[item, :width].square().sum()
            anybody = items[:, :width].square().sum(1).mean()
            expected = expected + weight * (own + other / 2 + anybody / 2) / len(positives)
    found = NestedSoftmax(positives, WIDTHS, WEIGHTS).penalty(0.6, users, items)
    torch.testing.assert_close(found, 0.3 * expected)


def test_widths_and_weights_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match="2 weights for 3 widths"):
        NestedSoftmax(liked(), WIDTHS, (1, 2))
    with pytest.raises(ConfigError, match="widths"):
        NestedSoftmax(liked(), (4, 2))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_has_the_loss_and_gradients_of_the_cpu() -> None:
    found = []
    for device in ("cpu", "cuda"):
        users, items = (table.detach().to(device).requires_grad_() for table in tables(dtype=torch.float32))
        loss = NestedSoftmax(liked().to(device), WIDTHS, WEIGHTS).to(device)
        total, terms = loss(torch.arange(USERS, device=device), users, items)
        (total + loss.penalty(0.5, users, items)).backward()
        found.append([each.detach().cpu() for each in (total, terms, users.grad, items.grad)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_draws_by_chance_too(monkeypatch) -> None:
    loss = drawing(monkeypatch, 6, liked().to("cuda")).to("cuda")
    rows, (users, items) = torch.arange(USERS, device="cuda"), (table.detach().cuda() for table in tables())
    exact = drawing(monkeypatch, ITEMS, liked().to("cuda")).to("cuda")(rows, users, items)[0]
    generator = torch.Generator("cuda").manual_seed(0)
    mean = torch.stack([loss(rows, users, items, generator=generator)[0] for _ in range(300)]).mean()
    torch.testing.assert_close(mean, exact, rtol=0.2, atol=0)
