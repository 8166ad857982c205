"""Adam whose step touches only the rows of a batch, compiled for the CPU.

Adam over whole tables moves every row at every step: a row without a gradient goes on by its decaying momentum.
Here such a row rests, and what it missed is made up for when it is next needed: after n steps its moments have decayed
to β1ⁿ·m and β2ⁿ·v, and its movements, one like the other but for a factor, add up to

    Σ_j a_j · m / (√v + ε_j)  ≈  m / (√v + ε̄) · Σ_j a_j,    ε̄ the mean of the ε_j weighted by the a_j, j = 1 … n,
    a_j = (β1/√β2)ʲ · η·√(1 − β2^(t+j)) / (1 − β1^(t+j)),    ε_j = ε·√(1 − β2^(t+j)) / √β2ʲ.

So this is Adam (Kingma & Ba, ICLR 2015) and not the "sparse" kind, whose resting rows stand still: the two sides differ
by the square of ε/√v.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor

from mrl.kernels.threads import AHEAD, compiled, fetch, in_threads

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8
WINDOW = 256  # steps after which momentum is gone: (β1/√β2)^256 < 1e-11
LEAST = 1024  # rows a thread at least: fewer take less time than handing them over

_kernel = partial(compiled, fastmath={"contract"})


class RowAdam:
    """tables: float32 parameters (R, D) on the CPU. `state` has the names and shapes of `torch.optim.Adam`'s.

        optimiser.start_epoch(steps)
        optimiser.next_step()
        optimiser.catch_up(table, rows)             # before reading rows
        optimiser.update(table, rows, gradients)    # every row that has caught up, once or more often
        optimiser.finish_epoch()                    # every row of every table is up to date

    Within an epoch, rows that nothing caught up lag behind.
    """

    def __init__(self, tables: list[Tensor], learning_rate: float):
        self.tables, self.learning_rate = tables, learning_rate
        self.state: dict[Tensor, dict[str, Tensor]] = {}

    def start_epoch(self, steps: int) -> None:
        """Prepare for so many steps."""
        for table in self.tables:
            if table not in self.state:
                zeros = {name: torch.zeros_like(table, requires_grad=False) for name in ("exp_avg", "exp_avg_sq")}
                self.state[table] = {"step": torch.tensor(0.0, dtype=torch.float32)} | zeros
        self._done = int(self.state[self.tables[0]]["step"])  # before this epoch
        self._now = 0  # the step of this epoch
        self._missed = np.zeros((steps + 2, 2))  # by the step at which a row was last touched: Σ a, Σ a·ε
        ages = np.arange(WINDOW, 0, -1)
        self._weights = np.stack([(BETA1 / BETA2**0.5) ** ages, EPSILON * (BETA1 / BETA2) ** ages], 1)
        self._arrays = {
            table: (
                table.detach().numpy(),
                self.state[table]["exp_avg"].numpy(),
                self.state[table]["exp_avg_sq"].numpy(),
                np.zeros(len(table), np.int32),  # the step at which each row was last touched
                np.zeros(len(table), np.int32),  # and last caught up
                np.empty(len(table), np.int32),  # where its gradients begin
            )
            for table in self.tables
        }

    def next_step(self) -> None:
        if self._now:
            oldest = max(0, self._now - WINDOW)
            rate, correction = self._rates()
            self._missed[oldest : self._now] += (rate, rate * correction) * self._weights[oldest - self._now :]
        self._now += 1

    def _rates(self) -> tuple[float, float]:
        """η·√(1 − β2ᵗ) / (1 − β1ᵗ) and √(1 − β2ᵗ) of this step."""
        step = self._done + self._now
        correction = (1 - BETA2**step) ** 0.5
        return self.learning_rate * correction / (1 - BETA1**step), correction

    def catch_up(self, table: Tensor, rows: np.ndarray) -> None:
        """Bring rows (n,) int64 of a table up to date, as they are before this step. Rows may repeat."""
        values, first, second, last, caught_up, _ = self._arrays[table]
        lagging = np.empty(len(rows), np.int64)
        lagging = lagging[: _find_lagging(rows, caught_up, self._now, lagging)]
        in_threads(
            lambda part: _catch_up(lagging[part], values, first, second, last, self._missed), len(lagging), each=LEAST
        )

    def update(self, table: Tensor, rows: np.ndarray, gradients: np.ndarray) -> None:
        """One step of the rows (n,), whose gradients (n, D) are summed where rows repeat, in order."""
        *moments, _, begin = self._arrays[table]
        following, distinct = np.empty(len(rows), np.int32), np.empty(len(rows), np.int64)
        distinct = distinct[: _link_equal(rows, begin, following, distinct)]
        rate, correction = self._rates()
        rate, epsilon = np.float32(rate), np.float32(EPSILON * correction)
        in_threads(
            lambda part: _update(distinct[part], begin, following, gradients, *moments, self._now, rate, epsilon),
            len(distinct),
            each=LEAST,
        )

    def finish_epoch(self) -> None:
        """Bring every row up to date."""
        self.next_step()  # so that what was missed includes the last step
        steps = self._now - 1
        for table, (values, first, second, last, _, _) in self._arrays.items():

            def work(part: slice, values=values, first=first, second=second, last=last) -> None:
                rows = np.arange(part.start, part.stop)
                _catch_up(rows, values, first, second, last, self._missed)
                _decay_rows(rows, first, second, last, steps)

            in_threads(work, len(values), each=LEAST)
            self.state[table]["step"].fill_(self._done + steps)
        self._done, self._now = self._done + steps, 0


@_kernel
def _fetch_ahead(rows, n, values, first, second):
    dim = values.shape[1]
    start = rows[min(n + AHEAD, len(rows) - 1)] * dim
    fetch(values, start, start + dim)
    fetch(first, start, start + dim)
    fetch(second, start, start + dim)


@_kernel
def _find_lagging(rows, caught_up, now, lagging):
    """List each row that has not caught up in this step yet, once; returns how many."""
    count = 0
    for row in rows:
        if caught_up[row] != now:
            caught_up[row] = now
            lagging[count] = row
            count += 1
    return count


@_kernel
def _link_equal(rows, begin, following, distinct):
    """Link equal rows: begin[row] is the place of the first, following[n] of the next, -1 at the end."""
    for n in range(len(rows)):
        begin[rows[n]] = -1
    count = 0
    for n in range(len(rows) - 1, -1, -1):
        row = rows[n]
        if begin[row] == -1:
            distinct[count] = row
            count += 1
        following[n] = begin[row]
        begin[row] = n
    return count


@_kernel
def _catch_up(rows, values, first, second, last, missed):
    for n in range(len(rows)):
        _fetch_ahead(rows, n, values, first, second)
        row = rows[n]
        amount = np.float32(missed[last[row], 0])
        if amount > 0:
            small = np.float32(missed[last[row], 1] / missed[last[row], 0])
            p, m, v = values[row], first[row], second[row]
            for d in range(len(p)):
                p[d] -= amount * m[d] / (np.sqrt(v[d]) + small)


@_kernel
def _decay_rows(rows, first, second, last, now):
    """Decay the moments of rows to step `now`."""
    for row in rows:
        if last[row] < now:
            _decay(first[row], second[row], now - last[row])
            last[row] = now


@_kernel
def _decay(m, v, steps):
    keep, shrink = np.float32(BETA1**steps), np.float32(BETA2**steps)
    for d in range(len(m)):
        m[d] *= keep
        v[d] *= shrink


@_kernel
def _update(rows, begin, following, gradients, values, first, second, last, now, rate, epsilon):
    one, two = np.float32(BETA1), np.float32(BETA2)
    rest_one, rest_two = np.float32(1 - BETA1), np.float32(1 - BETA2)
    gradient = np.empty(values.shape[1], np.float32)
    for n in range(len(rows)):
        _fetch_ahead(rows, n, values, first, second)
        row = rows[n]
        p, m, v = values[row], first[row], second[row]
        place = begin[row]
        gradient[:] = gradients[place]
        place = following[place]
        while place >= 0:
            repeated = gradients[place]
            for d in range(len(p)):
                gradient[d] += repeated[d]
            place = following[place]
        rested = now - 1 - last[row]
        keep = one * np.float32(BETA1**rested) if rested else one
        shrink = two * np.float32(BETA2**rested) if rested else two
        for d in range(len(p)):
            g = gradient[d]
            m[d] = keep * m[d] + rest_one * g
            v[d] = shrink * v[d] + rest_two * g * g
            p[d] -= rate * m[d] / (np.sqrt(v[d]) + epsilon)
        last[row] = now
