"""A name or a path → `Interactions`: who met what, in three splits, with raw ids and item labels.

What one file holds is read in `mrl.files`; which files make up a data set, and what is made of them, is decided here.

    interactions    `Positives` and `Interactions`, made from a log
    frames          tables that people hold in Python → a log
    ids             raw ids from Python, checked
    splits          who goes into test: split rules, k-core, thresholds
    holdout         validation, split off from train
    datasets        which files make up a data set
    load            the data set of a `TrainConfig`, and its device
    registry        the data sets that are known by name, with their checksums
    downloads       their files from the web, into the cache
    synthetic       data with a planted taxonomy of items
"""

from mrl.data.datasets import dataset_name, load_dataset, resolve_dataset, sniff
from mrl.data.holdout import as_paper, check_held_out, hold_out
from mrl.data.interactions import Interactions, Positives, build
from mrl.data.load import DATA_SETTINGS, load_data, pick_device
from mrl.data.registry import DATASETS
from mrl.data.synthetic import Planted, planted, planted_interactions
