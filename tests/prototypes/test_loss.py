"""The loss against its formula in loops, its gradients by differences, its teacher, and prefixes that it keeps to."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from prototyped import blobs

from mrl.errors import ConfigError
from mrl.prototypes import PrototypeLoss, prototype_counts, sinkhorn
from mrl.prototypes.loss import far_apart, teacher_kept, teacher_temperature, unit_rows

WIDTHS, COUNTS = (2, 5), (3, 4)


def views(items: int = 9, dim: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    first = torch.randn(items, dim, dtype=torch.float64, generator=generator)
    return first, first + 0.1 * torch.randn(items, dim, dtype=torch.float64, generator=generator)


def in_loops(students, teachers, tables, teacher_tables, weights, temperature) -> list[float]:
    terms = []
    for width, table, teacher_table in zip(WIDTHS, tables, teacher_tables, strict=True):

        def cosine(vector, prototype, width=width):
            prefix = vector[:width]
            return float(prefix @ prototype / np.linalg.norm(prefix) / np.linalg.norm(prototype))

        scores = np.array([[cosine(vector, row) / temperature for row in teacher_table] for vector in teachers])
        wanted = sinkhorn(torch.tensor(scores), torch.tensor(weights))[0].numpy()  # tested by itself
        term = 0.0
        for row, vector in enumerate(students):
            exps = [np.exp(cosine(vector, prototype) / 0.1) for prototype in table]
            for k, each in enumerate(exps):
                term -= weights[row] / sum(weights) * wanted[row, k] * np.log(each / sum(exps))
        terms.append(term)
    return terms


@pytest.mark.parametrize("progress", [0.0, 0.15, 1.0])
def test_the_loss_is_its_formula(progress):
    students, teachers = views()
    loss = PrototypeLoss(WIDTHS, COUNTS, students)
    with torch.no_grad():
        for table in loss.tables:
            table += 0.3 * torch.randn(table.shape, generator=torch.Generator().manual_seed(1), dtype=table.dtype)
    weights = np.arange(1, 10) ** 0.5
    total, terms = loss(students, teachers, torch.tensor(weights), progress)
    tables = [[table.detach().numpy() for table in side] for side in (loss.tables, loss.teachers)]
    expected = in_loops(students.numpy(), teachers.numpy(), *tables, weights, teacher_temperature(progress))
    assert terms.numpy() == pytest.approx(np.array(expected), rel=1e-6)
    assert float(total.detach()) == pytest.approx(sum(expected), rel=1e-6)
    even = loss(students, teachers)[0].item()
    assert even == pytest.approx(loss(students, teachers, torch.full((9,), 7.0, dtype=torch.float64))[0].item())


def test_gradients_are_those_of_differences_and_go_to_students_and_tables_only():
    students, teachers = views()
    loss = PrototypeLoss(WIDTHS, COUNTS, students).double()
    students.requires_grad_()
    teachers.requires_grad_()

    def total(vectors, *tables):
        for own, table in zip(loss.tables, tables, strict=True):
            own.data = table.data
        return torch.func.functional_call(
            loss, {f"tables.{level}": table for level, table in enumerate(tables)}, (vectors, teachers)
        )[0]

    assert torch.autograd.gradcheck(total, (students, *(table.detach().requires_grad_() for table in loss.tables)))
    loss(students, teachers)[0].backward()
    assert teachers.grad is None and all(teacher.grad is None for teacher in loss.teachers)
    assert all(table.grad.abs().sum() > 0 for table in loss.tables) and students.grad.abs().sum() > 0


def test_a_level_depends_on_its_prefix_only():
    students, teachers = views()
    changed = students.clone(), teachers.clone()
    for each in changed:
        each[:, 2:] = 9 * torch.randn(9, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(8))
    before, after = PrototypeLoss(WIDTHS, COUNTS, students), PrototypeLoss(WIDTHS, COUNTS, changed[0])
    assert torch.equal(before.tables[0], after.tables[0])
    first, second = before(students, teachers)[1], after(*changed)[1]
    assert first[0] == second[0] and first[1] != second[1]
    vectors = students.clone().requires_grad_()
    narrow = PrototypeLoss(WIDTHS[:1], COUNTS[:1], students)
    narrow(vectors, teachers)[0].backward()
    assert (vectors.grad[:, 2:] == 0).all() and (vectors.grad[:, :2] != 0).any()


def test_the_teacher_follows_and_stands_still_at_the_end():
    loss = PrototypeLoss(WIDTHS, COUNTS, views()[0])
    old = [teacher.clone() for teacher in loss.teachers]
    loss.tables[0].data += 1.0
    loss.follow(0.0)
    assert torch.allclose(loss.teachers[0], old[0] + 0.008) and torch.equal(loss.teachers[1], old[1])
    now = loss.teachers[0].clone()
    loss.follow(1.0)
    assert torch.equal(loss.teachers[0], now)
    assert [teacher_kept(0.0), teacher_kept(1.0)] == [0.992, 1.0]
    assert [teacher_temperature(each) for each in (0, 0.15, 0.3, 1)] == pytest.approx([0.04, 0.055, 0.07, 0.07])


def test_prototypes_begin_far_apart_at_length_one_and_rows_of_zeros_have_finite_gradients():
    vectors, branch = blobs()
    begin = far_apart(torch.tensor(vectors[:, :4]), 4, seed=0)
    assert begin.norm(dim=1).numpy() == pytest.approx(np.ones(4), abs=1e-4)
    nearest = (unit_rows(torch.tensor(vectors[:, :4])) @ begin.T).argmax(0).numpy()
    assert sorted(branch[0][nearest]) == [0, 1, 2, 3]
    zeros = torch.zeros(4, 3, requires_grad=True)
    PrototypeLoss([3], [2], torch.eye(3))(zeros, torch.zeros(4, 3))[0].backward()
    assert zeros.grad.isfinite().all()


def test_counts_are_in_proportion_and_checked():
    assert prototype_counts((4, 8, 64), 4, 100) == [16, 32, 100]
    assert prototype_counts((1, 2), 0.5, 100) == [2, 2]
    with pytest.raises(ConfigError, match=r"counts=\[3\]: must be one a width, \[2, 5\], from 1 to the 9 items"):
        PrototypeLoss(WIDTHS, [3], views()[0])
