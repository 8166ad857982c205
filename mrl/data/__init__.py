"""A name or a path → `Interactions`: who met what, in three splits, with raw ids and item labels.

Everything that reads data from files or from the web is here, and refuses what is broken in one line.

    interactions    `Positives` and `Interactions`, made from a log
    frames          tables that people hold in Python → a log
    ids             raw ids from Python, checked
    splits          who goes into test: split rules, k-core, thresholds
    holdout         validation, split off from train
    datasets        which files make up a data set
    load            the data set of a `TrainConfig`, and its device
    registry        the data sets that are known by name, with their checksums
    downloads       their files from the web, into the cache
    parsers         a file → a log
    formats         what is in a file: its format, told by its content
    tables          separated text, Parquet, and the parts of one table
    lists           adjacency lists
    columns         the usual names of columns
    values          raw values → ids, numbers, times
    files           compressed files, and what is no data
    labels          files → titles, years and genres of the items
    completejourney  files of completejourney → its log, titles and true depths
    synthetic       data with a planted taxonomy of items
"""

from mrl.data.datasets import dataset_name, load_dataset, resolve_dataset
from mrl.data.holdout import as_paper, check_held_out, hold_out
from mrl.data.interactions import Interactions, Positives, build
from mrl.data.load import DATA_SETTINGS, load_data, pick_device
from mrl.data.registry import DATASETS
from mrl.data.formats import sniff
from mrl.data.synthetic import Planted, planted, planted_interactions
