"""A name or a path → `Interactions`: who met what, in three splits, with raw ids and item labels.

Everything that reads data from files or from the web is here, and refuses what is broken in one line.

    interactions    `Positives` and `Interactions`, made from a log
    splits          who goes into test: split rules, k-core, thresholds
    holdout         validation, split off from train
    datasets        which files make up a data set
    load            the data set of a `TrainConfig`, and its device
    registry        the data sets that are known by name, with their checksums
    downloads       their files from the web, into the cache
    parsers         files → a log
    labels          files → titles, years and genres of the items
    completejourney  files of completejourney → its log, titles and true depths
    synthetic       data with a planted taxonomy of items
"""

from mrl.data.datasets import dataset_name, load_dataset
from mrl.data.holdout import as_paper, hold_out
from mrl.data.interactions import Interactions, Positives, build
from mrl.data.load import load_data, pick_device
from mrl.data.registry import DATASETS
from mrl.data.synthetic import Planted, planted, planted_interactions
