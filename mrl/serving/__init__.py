"""Trained once, served at any width: what is done with a finished run without training again.

fold_in.py   new users and items, by one least-squares solve each
nest.py      vectors of any other model made nested, their scores unchanged
"""

from mrl.serving.fold_in import fold_in_items, fold_in_users
from mrl.serving.nest import Nested, nest, prefix_recall
