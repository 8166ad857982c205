"""Runs → for whom each width is accurate, what it recommends, what it costs, and whether two models differ.

Everything is read off the test set, and nothing is chosen by it.

    profile       accuracy by group, recommended lists, oracle widths, costs: tables and sentences
    comparison    runs measured alike, and compared user by user
    popularity    what it costs and gives to project popularity out
    sentences     sentences about several models
"""

from mrl.analysis.comparison import EvaluateConfig, RunTables, compare_all, load_run_data, load_runs, measure_run
from mrl.analysis.popularity import measure_popularity, probe_popularity
from mrl.analysis.profile import find_oracle_widths, profile_lists
from mrl.analysis.sentences import describe_models, rank_models
