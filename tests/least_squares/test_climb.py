"""The climb: it follows what is better, ends where nothing is, and knows no edge."""

from __future__ import annotations

import math

import pytest

from mrl.least_squares.climb import NEIGHBOURS, climb, grid_value


def point(alpha0: float, l2: float) -> tuple[int, int]:
    """In half decades; the inverse of grid_value."""
    return round(2 * math.log10(alpha0)), round(2 * math.log10(l2))


def hill(top: tuple[int, int]):
    """Values that fall with the distance from the top, and the points that were looked at."""
    seen: list[tuple[int, int]] = []

    def value_of(alpha0: float, l2: float) -> float:
        seen.append(point(alpha0, l2))
        return -math.dist(seen[-1], top)

    return value_of, seen


def test_the_grid_is_of_half_decades_without_an_end() -> None:
    assert [grid_value(n) for n in (-9, -4, -1, 0, 1, 2, 7)] == [3e-5, 0.01, 0.3, 1, 3, 10, 3000]
    assert [point(grid_value(n), grid_value(-n)) for n in range(-12, 12)] == [(n, -n) for n in range(-12, 12)]


@pytest.mark.parametrize("top", [(-3, -4), (-1, -4), (-3, 3), (-11, -12), (9, 6), (3, -9)])
def test_the_top_is_found_wherever_it_lies(top) -> None:
    value_of, seen = hill(top)
    chosen, table = climb(value_of, (-3, -4), 100)
    assert point(**chosen) == top and len(table) == len(seen) == len(set(seen))
    assert table.columns == ["alpha0", "l2", "value", "seconds"] and table["value"].max() == 0
    around = {(top[0] + move[0], top[1] + move[1]) for move in NEIGHBOURS}
    assert around <= set(seen)  # it ended as no neighbour was better


def test_a_direction_is_followed_as_long_as_it_is_better() -> None:
    value_of, seen = hill((0, 5))
    climb(value_of, (0, 0), 100)
    assert seen[:7] == [(0, 0), (0, 1), (0, 2), (0, 3), (0, 4), (0, 5), (0, 6)]  # one too far, then other ways
    value_of, seen = hill((-4, 4))
    climb(value_of, (0, 0), 100, moves=[(-1, 1)])
    assert seen == [(0, 0), (-1, 1), (-2, 2), (-3, 3), (-4, 4), (-5, 5)]


def test_after_so_many_trials_it_is_the_best_so_far() -> None:
    for trials in (1, 2, 5, 8):
        value_of, seen = hill((9, 9))
        told: list[dict] = []
        chosen, table = climb(value_of, (0, 0), trials, on_trial=told.append)
        assert len(seen) == len(table) == trials and [row["trial"] for row in told] == list(range(1, trials + 1))
        best = table.row(table["value"].arg_max(), named=True)
        assert chosen == {"alpha0": best["alpha0"], "l2": best["l2"]}
        assert [{**row, "trial": 0} for row in told] == [{**row, "trial": 0} for row in table.to_dicts()]


def test_what_may_not_move_stays_and_no_move_is_one_trial() -> None:
    value_of, seen = hill((4, 4))
    chosen, _ = climb(value_of, (0, 0), 100, moves=[(0, 1), (0, -1)])
    assert point(**chosen) == (0, 4) and {alpha0 for alpha0, _ in seen} == {0}
    assert len(climb(value_of, (0, 0), 100, moves=[])[1]) == 1


def test_where_all_is_alike_the_way_is_down() -> None:
    """Penalties that leave nothing are all worth 0; less of them leads out."""

    def value_of(alpha0: float, l2: float) -> float:
        return 0.0 if sum(point(alpha0, l2)) > -4 else 1.0

    chosen, table = climb(value_of, (1, 3), 100)
    assert table["value"][0] == 0 and sum(point(**chosen)) <= -4
