"""What the levels of nested vectors mean: item vectors and labels → tables, and sentences about them.

Everything but `runs` knows arrays and tables, not models. Every value stands beside its chance level.

    measure       all tables of one matrix of items, and what their columns mean
    clusters      clusters at every width, and how far they agree with labels
    neighbours    nearest items at every width
    nesting       whether wide clusters lie within narrow ones
    probes        what each block of dimensions knows
    tree          names of clusters, where they go, a strict tree of them
    describe      the tables in sentences
    runs          run directories → tables, of a model and its controls
"""

from mrl.hierarchy.clusters import check_items, membership, name_branches, normalise_rows, sample_rows
from mrl.hierarchy.measure import SAMPLE, Hierarchy, measure_hierarchy
from mrl.hierarchy.neighbours import item_titles
from mrl.hierarchy.runs import HierarchyConfig, format_lists, label_of, load_models, map_labels, measure_models
from mrl.hierarchy.runs import neighbours_of, stack_tables, top_k_of, widths_of, write_tables
