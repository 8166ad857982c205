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
from mrl.least_squares.ials import ials, mean_score, transpose
from mrl.least_squares.nested import fold_in, nested_least_squares
from mrl.least_squares.propagation import Propagation
from mrl.least_squares.rotation import Factors, initial_model, learn_rotation
from mrl.least_squares.search import SEARCHED, choose_settings, climb
from mrl.least_squares.validation import fit_least_squares, sample_validation_users, validation_value
