"""Vectors from elsewhere made nested: what was shuffled away comes back, and no score changes."""

from __future__ import annotations

import sys

import numpy as np
import polars as pl
import pytest
import torch
from settings import GIVEN, one_validation_split, train_config

import mrl
from mrl import fit
from mrl.data import load_data
from mrl.errors import ConfigError, DataError
from mrl.exchange.nest import Nested, nest, prefix_recall

room = sys.modules["mrl.exchange.nest"]  # under its name in the wing is the function
PLANTED = {"num_users": 400, "num_items": 200, "interactions": 12_000, "branching": [3, 4], "noise": 0.05}
DIM = 32


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[torch.Tensor, torch.Tensor]:
    """Nested vectors of a planted taxonomy, least squares with the rotation."""
    options = GIVEN | {"fit_width": DIM, "recipe": "least_squares", "device": "cpu"}
    path = tmp_path_factory.mktemp("trained") / "run"
    config = train_config(dataset="planted", planted=PLANTED, widths=(4, 8, 16, DIM), run_dir=str(path), **options)
    with one_validation_split():
        run = fit(config, load_data(config), progress=False)
    return run.users, run.items


def orthogonal(dim: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(dim, dim, generator=generator, dtype=torch.float64))[0]


def topics(rows: int, dim: int) -> np.ndarray:
    """As text embeddings are: topics within fields, ten rows each, all of them a little alike, rows (N, D) float32."""
    rng = np.random.default_rng(0)
    fields, within = rng.normal(size=(20, dim)), 0.7 * rng.normal(size=(rows // 10, dim))
    topic = np.repeat(np.arange(rows // 10), 10)
    return (fields[topic % 20] + within[topic] + 0.5 * rng.normal(size=(rows, dim)) + 1).astype(np.float32)


def check_scores(before: tuple, after: Nested, most: float = 1e-4) -> None:
    users, items, new_users, new_items = (torch.as_tensor(t).double() for t in (*before, after.users, after.items))
    scores = users @ items.T
    assert float((new_users @ new_items.T - scores).abs().max()) <= most * float(scores.abs().max())


def hidden_by(trained, how: str) -> tuple[torch.Tensor, torch.Tensor]:
    users, items = trained
    if how == "shuffled":
        order = torch.randperm(DIM, generator=torch.Generator().manual_seed(3))
        return users[:, order], items[:, order]
    if how == "rotated":
        return users @ orthogonal(DIM).float(), items @ orthogonal(DIM).float()
    # stretched on one side, shrunk on the other: no rotation undoes that
    mix = orthogonal(DIM) * torch.logspace(-1.5, 1.5, DIM, dtype=torch.float64) @ orthogonal(DIM, 1)
    return users.double() @ mix, items.double() @ torch.linalg.inv(mix).T


@pytest.mark.parametrize("how", ["shuffled", "rotated", "stretched"])
def test_prefixes_of_a_hidden_nested_model_are_found_again(trained, how) -> None:
    hidden = hidden_by(trained, how)
    nested = nest(*hidden, widths=[4, 8, 16])
    check_scores(hidden, nested)
    table = prefix_recall(hidden, nested)
    original = prefix_recall(trained, nested)["before"]
    assert table["width"].to_list() == [4, 8, 16] == list(nested.widths)
    assert (table["after"] > original - 0.03).all(), (table, original)
    assert (table["after"] > table["before"] + 0.1).all(), table
    other = prefix_recall(hidden, nested, k=5, widths=[2, 6, DIM])  # in between, and all
    assert other["after"][1] > other["before"][1] and other["after"][2] > 0.99 < other["before"][2]


def test_what_prefix_recall_counts(trained) -> None:
    users, items = trained
    nested = nest(users, items, widths=[4])
    scores, narrow = users @ items.T, users[:, :4] @ items[:, :4].T
    best, found = (each.topk(20).indices.tolist() for each in (scores, narrow))
    expected = np.mean([len({*a} & {*b}) / 20 for a, b in zip(best, found, strict=True)])
    assert prefix_recall((users, items), nested)["before"].item() == pytest.approx(expected)
    itself = nest(items, widths=[4])
    scores = (items @ items.T).fill_diagonal_(-torch.inf)
    narrow = (items[:, :4] @ items[:, :4].T).fill_diagonal_(-torch.inf)
    best, found = (each.topk(7).indices.tolist() for each in (scores, narrow))
    expected = np.mean([len({*a} & {*b}) / 7 for a, b in zip(best, found, strict=True)])
    assert prefix_recall(items, itself, k=7)["before"].item() == pytest.approx(expected)


def test_one_table_is_rotated_by_its_own_neighbours() -> None:
    table = topics(600, 48)
    nested = mrl.nest(table, cosine=True)
    assert nested.users is nested.items and nested.widths == (4, 8, 16, 32, 48)
    one = nested.rotation @ nested.rotation.T
    assert torch.allclose(one, torch.eye(48).double(), atol=1e-10)
    assert np.allclose(np.linalg.norm(nested.users, axis=1), 1, atol=1e-5)
    unit = table / np.linalg.norm(table, axis=1, keepdims=True)
    check_scores((unit, unit), nested)
    recall = prefix_recall(table, nested, k=9)
    narrow = recall.filter(pl.col("width").is_in([8, 16]))
    assert (narrow["after"] > narrow["before"] + 0.3).all(), recall


@pytest.mark.slow
def test_wide_embeddings_of_two_thousand_texts_take_seconds() -> None:
    table = topics(2000, 384)
    nested = nest(table, cosine=True)
    recall = prefix_recall(table, nested, k=9)
    assert nested.widths == (4, 8, 16, 32, 64, 128, 256, 384)
    assert recall.filter(width=16)["after"].item() > 0.9 > 0.4 > recall.filter(width=16)["before"].item()
    assert recall["after"][-1] > 0.999


def test_the_principal_axes_are_kept_where_what_is_learned_is_worse(monkeypatch, trained) -> None:
    def recall_with(rotation: torch.Tensor) -> list[float]:
        monkeypatch.setattr(room, "learn_rotation", lambda *_, **__: (rotation, 0.0))
        return prefix_recall(trained, nest(*trained, widths=[4, 8]))["after"].to_list()

    learned = prefix_recall(trained, nest(*trained, widths=[4, 8]))["after"]
    axes = recall_with(torch.eye(DIM))
    assert recall_with(orthogonal(DIM, 5).float()) == axes
    assert learned.mean() >= np.mean(axes)


def test_later_vectors_are_mapped_as_these_were(trained) -> None:
    users, items = hidden_by(trained, "stretched")
    nested = nest(users[:-20], items[:-10])
    later_users, later_items = nested.transform(users, "user"), nested.transform(items, "item")
    assert torch.allclose(later_users[:-20], nested.users) and torch.allclose(later_items[:-10], nested.items)
    assert torch.allclose(later_users @ later_items.T, users @ items.T, atol=1e-6)
    with pytest.raises(ConfigError, match="side=None: users and items are mapped differently"):
        nested.transform(users)
    table = topics(300, 16)
    itself = nest(table[:250], cosine=True)
    assert np.allclose(itself.transform(table)[:250], itself.users, atol=1e-6)
    with pytest.raises(DataError, match="3 dimensions, where these have 16"):
        itself.transform(np.ones((2, 3)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_tables_come_back_as_what_they_were(trained, dtype) -> None:
    users, items = (table.to(dtype) for table in trained)
    nested = nest(users, items, widths=[8])
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    assert nested.users.dtype == nested.items.dtype == wide
    check_scores((users, items), nested, 1e-12 if wide == torch.float64 else 1e-4)
    if dtype == torch.float16:
        in_numpy = nest(users.numpy(), items.numpy(), widths=[8])
        assert in_numpy.users.dtype == np.float32 and np.array_equal(in_numpy.users, nested.users.numpy())
        assert np.array_equal(nest(users.numpy().tolist(), items, widths=[8]).users, in_numpy.users)
    again = nest(users, items, widths=[8])
    assert torch.equal(again.users, nested.users) and torch.equal(again.items, nested.items)


def test_no_scale_and_no_unused_dimension_matters(trained) -> None:
    users, items = trained
    recall = prefix_recall(trained, nest(users, items, widths=[4, 8]))
    huge, tiny = 2.0**50 * users, 2.0**-50 * items  # exact
    assert prefix_recall((huge, tiny), nest(huge, tiny, widths=[4, 8])).equals(recall)
    padded = [torch.cat([table, table.new_zeros(len(table), 3)], 1) for table in (users, items)]
    nested = nest(*padded, widths=[4, 8])
    check_scores(tuple(padded), nested)
    assert (prefix_recall(tuple(padded), nested)["after"] > recall["after"] - 0.03).all()
    unused = torch.zeros(1, DIM + 3)
    unused[0, -1] = 2.0  # a later vector may use it
    score = nested.transform(unused, "user") @ nested.transform(unused, "item").T
    assert score.item() == pytest.approx(4.0, rel=1e-4)


@pytest.mark.parametrize(("shape", "widths"), [((1, 1), (1,)), ((1, 5), (4, 5)), ((2, 3), (3,)), ((40, 2), (2,))])
def test_the_smallest_tables_work(shape, widths) -> None:
    table = np.random.default_rng(0).normal(size=shape)
    for nested in (nest(table), nest(table, table[:1])):
        assert nested.widths == widths
        check_scores((table, table if nested.users is nested.items else table[:1]), nested, 1e-9)


@pytest.mark.robustness
@pytest.mark.parametrize(
    ("users", "items", "told"),
    [
        ([[1.0, np.nan], [1, 2]], None, "users: NaN or Inf in row 0; leave such rows out"),
        ([[1.0, 2], [3, 4]], [[1, 2], [np.inf, 0]], "items: NaN or Inf in row 1"),
        ([[1.0, 2]], [[1, 2, 3]], "users have 2 dimensions and items 3"),
        ([1.0, 2], None, r"users: has shape \(2,\); give a table"),
        (np.ones((0, 4)), None, r"users: has shape \(0, 4\)"),
        (np.ones((2, 3, 4)), None, r"users: has shape \(2, 3, 4\)"),
        ([[1.0], [2, 3]], None, "users: cannot be read as a table of numbers"),
        ("text", None, "users: cannot be read as a table of numbers"),
        (torch.ones(2, 2, dtype=torch.complex64), None, "users: cannot be read as a table of numbers"),
        (np.zeros((3, 4)), None, "users: zeros alone"),
    ],
)
def test_what_is_no_table_is_refused_in_one_line(users, items, told) -> None:
    with pytest.raises(DataError, match=told) as caught:
        nest(users, items)
    assert "\n" not in str(caught.value)


@pytest.mark.robustness
@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"widths": [2, 64]}, "64 is wider than the 4 dimensions there are"),
        ({"widths": [4, 2]}, "must increase"),
        ({"widths": []}, "give at least one whole number"),
        ({"widths": 4}, "give a list of whole numbers"),
        ({"cosine": "yes"}, "cosine='yes': must be True or False"),
    ],
)
def test_impossible_settings_are_refused(settings, told) -> None:
    with pytest.raises(ConfigError, match=told):
        nest(np.eye(4), **settings)
    with pytest.raises(ConfigError, match="k=4: must be from 1 to 3"):
        prefix_recall(np.eye(4), nest(np.eye(4)), k=4)
