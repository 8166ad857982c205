"""Trained once, served at any width: what is done with a finished run without training again.

index.py      search by prefix: exact, adaptive, funnel; items that come, change and go
scans.py      the first look at all items, by compiled loops or by faiss
codes.py      item vectors in fewer bits
catalogue.py  whom and what an index knows
storage.py    an index on disk, and versions of it that are swapped while readers go on
measure.py    what an index finds and what it costs, many settings side by side
advice.py     which of them to take
drift.py      when to train again: what fold-in loses, and for how many
fold_in.py    new users and items, and users who have met more, by one least-squares solve each
"""

from mrl.serving.advice import Advice, ServeConfig, advise
from mrl.serving.drift import Drift, measure_drift
from mrl.serving.fold_in import fold_in_items, fold_in_users, update_users
from mrl.serving.index import Index
from mrl.serving.storage import open_index, publish, save_index
