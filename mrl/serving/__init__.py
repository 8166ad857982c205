"""Trained once, served at any width: what is done with a finished run without training again.

fold_in.py   new users and items, by one least-squares solve each
"""

from mrl.serving.fold_in import fold_in_items, fold_in_users
