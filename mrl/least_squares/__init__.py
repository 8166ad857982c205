"""Linear models in closed form, made nested: what the recipes `default` and `least_squares` are made of.

ials.py          iALS: least squares, row by row, in batches, from random factors or a spectral start
axes.py          principal axes: factors rotated so that the leading ones carry most of the scores
nested.py        nested least squares: every level at once, block by block in closed form; fold-in
propagation.py   vectors that pick up a share of their neighbours'
rotation.py      the learned rotation, such that every prefix ranks as the whole does
fit.py           what a config says of all that: a wide fit, rotated and cut
gains.py         gains by width: whether they are clear, what wider vectors would gain
validation.py    validation users and splits, and the value that settings are judged by
usual.py         usual settings by the data, how wide these can be fitted, what a thorough search tries beside
climb.py         the climb to the best alpha0 and penalty, neighbour by neighbour
search.py        the settings, chosen on validation: the whole first, then its prefixes
stages.py        the default recipe after each of its stages, by settings that were chosen
"""

from mrl.least_squares.axes import rotate
from mrl.least_squares.climb import climb
from mrl.least_squares.fit import fit_least_squares, initial_model
from mrl.least_squares.gains import clearly_better
from mrl.least_squares.ials import Factors, ials, transpose
from mrl.least_squares.nested import fold_in, nested_least_squares
from mrl.least_squares.propagation import Propagation
from mrl.least_squares.rotation import learn_rotation
from mrl.least_squares.search import SEARCHED, choose_settings, expected_trials
from mrl.least_squares.usual import most_epochs
from mrl.least_squares.validation import sample_validation_users, validation_value, values_by_user
