"""What training starts from: factors under propagation, their narrow levels fitted by themselves before the rest.

Inside a wide fit the leading dimensions are the first axes of what the widest level wants. On sparse data the narrow
levels want something else: a stronger penalty, and many more epochs of training than the wide levels, which over-fit
by then. So the narrow levels are solved again from the leading axes, with α0 and a penalty of their own, trained for as
many epochs as help them, and kept; the other axes are put beside them and trained with the narrow ones held.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from mrl.config import TrainConfig
from mrl.ials import mean_score, transpose
from mrl.interactions import Positives
from mrl.least_squares import nested_sweeps
from mrl.propagation import Propagation
from mrl.trainer import Trainer
from mrl.widths import check_level_weights

Factors = tuple[Tensor, Tensor]
Say = Callable[[dict], None]

NARROW = 8  # levels of at most so many dimensions are fitted first: wider ones gain nothing from it
NARROW_SWEEPS = 12
NARROW_EPOCHS = 24  # at most


def smoothed(config: TrainConfig, positives: Positives, factors: Factors) -> Propagation:
    """Factors under the propagation of the config, ready to be served or trained."""
    user_share, item_share = config.shares
    model = Propagation(positives, factors, user_share=user_share, item_share=item_share, hops=config.hops)
    return model.to(factors[0].device)


def narrow_width(widths: Sequence[int]) -> int:
    """The widest of the levels that may be fitted first; 0 where there are none, or no others."""
    return max((width for width in widths if width <= NARROW and width < widths[-1]), default=0)


def start_model(config: TrainConfig, positives: Positives, factors: Factors, on_row: Say | None = None) -> Propagation:
    """The model that training starts from: users (U, D) and items (I, D) of least squares, and what is narrow first.

    on_row: called after each sweep and epoch of the narrow levels, with a row of the history.
    """
    plain = smoothed(config, positives, factors)
    if not config.held:
        return plain
    *_, narrow = narrow_epochs(config, positives, factors, int(config.narrow[3]), on_row)
    return beside(config, positives, factors, plain.vectors(), narrow)


def narrow_epochs(
    config: TrainConfig, positives: Positives, factors: Factors, epochs: int, on_row: Say | None = None
) -> Iterator[Propagation]:
    """The narrow levels by themselves: as least squares leaves them, then after each epoch of training."""
    width = config.held
    levels = sum(level <= width for level in config.widths)
    widths = config.widths[:levels]
    given = config.level_weights[:levels]
    weights = check_level_weights(given if any(given) else (), widths)
    falling = [weight / level for weight, level in zip(weights, widths, strict=True)]  # the narrower, the harder to fit
    own = replace(
        config,
        widths=widths,
        level_weights=tuple(weight * sum(weights) / sum(falling) for weight in falling),
        levels_per_step=min(config.levels_per_step, levels),
        eval_widths=(),
        train_width=0,
        narrow=(0,),
        epochs=NARROW_EPOCHS,
    )
    users, items = (table[:, :width].contiguous() for table in factors)
    alpha0, l2 = config.narrow[1:3]
    if alpha0:
        before = mean_score(*smoothed(own, positives, (users, items)).vectors(), positives)
        users, items = nested_sweeps(
            users, items, positives, transpose(positives), own.widths, own.level_weights,
            alpha0=alpha0, l2=l2, nu=config.nu, sweeps=NARROW_SWEEPS,
            on_sweep=on_row and (lambda row: on_row({"phase": "sweeps", "stage": "narrow"} | row)),
        )  # fmt: skip
        after = mean_score(*smoothed(own, positives, (users, items)).vectors(), positives)
        scale = (before / after) ** 0.5 if before > 0 and after > 0 else 1.0
        users, items = users * scale, items * scale
    model = smoothed(own, positives, (users, items))
    yield model
    trainer = Trainer(own, positives, users.device, model)
    for _ in range(epochs):
        started = time.perf_counter()
        loss, _ = trainer.run_epoch()
        if on_row is not None:
            on_row({"phase": "narrow", "epoch": trainer.epoch, "loss": loss, "seconds": time.perf_counter() - started})
        yield model


@torch.no_grad()
def beside(
    config: TrainConfig, positives: Positives, factors: Factors, plain: Factors, narrow: Propagation
) -> Propagation:
    """The narrow levels as they are, with the wider blocks of the factors beside them in the scale that fits.

    plain: the factors under propagation. A scale changes no ranking of the narrow levels. It is such that their columns
    are `lift` times, the last of `config.narrow`, what the axes in their place were in comparison with the others, and
    that positives score as they did.
    """
    width, lift = narrow.users.shape[1], config.narrow[4]
    trained = narrow.vectors()
    ratio = _size(*trained) / _size(*(table[:, :width] for table in plain)) / lift
    tables = [
        torch.cat([own, table[:, width:] * ratio**0.5], 1)
        for own, table in zip((narrow.users, narrow.items), factors, strict=True)
    ]
    model = smoothed(config, positives, tuple(tables))
    before, after = mean_score(*plain, positives), mean_score(*model.vectors(), positives)
    if before > 0 and after > 0:
        for table in (model.users, model.items):
            table *= (before / after) ** 0.5
    return model


def _size(users: Tensor, items: Tensor) -> float:
    """The geometric mean, over columns, of the largest score that a column can give a unit user and item; never 0."""
    sizes = users.double().norm(dim=0) * items.double().norm(dim=0)
    return float(sizes[sizes > 0].log().mean().exp()) if bool((sizes > 0).any()) else 1.0
