"""Linear models in closed form, made nested: what the recipes `default` and `least_squares` are made of.

ials.py          iALS: exact least squares, row by row, in batches
axes.py          principal axes: factors rotated so that the leading ones carry most of the scores
nested.py        nested least squares: every level at once, block by block in closed form; fold-in
propagation.py   vectors that pick up a share of their neighbours'
rotation.py      the learned rotation, and the initial model of training
validation.py    validation users and splits, and what is fitted on each split
search.py        the settings, chosen on validation: the penalty first, then each other setting
"""

from mrl.least_squares.axes import principal_axes, rotate
from mrl.least_squares.ials import ials
from mrl.least_squares.nested import nested_least_squares
from mrl.least_squares.propagation import Propagation
from mrl.least_squares.rotation import initial_model, learn_rotation
from mrl.least_squares.search import choose_settings
from mrl.least_squares.validation import fit_least_squares

__all__ = [
    "Propagation",
    "choose_settings",
    "fit_least_squares",
    "ials",
    "initial_model",
    "learn_rotation",
    "nested_least_squares",
    "principal_axes",
    "rotate",
]
