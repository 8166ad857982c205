"""Tables → pictures: one function a figure, all in one look, by the display names of models.

A table is a polars DataFrame in long form; `size` is `column` or `page` of a two-column paper.

    style        sizes, colours, legends, what figures share, and how they are saved
    plots        the data, training, accuracy by width
    panels       lists, costs, popularity projected out, differences between models
    stages       what each stage of the default recipe gives
    hierarchy    what the levels mean
    levels       which width knows which depth, model by model
    maps         aligned maps of the items
    cascade      which width a query needs, and what it costs
    federated    accuracy against what clients send and receive
    flows        how clusters split: alluvial diagram and tree
    retrieval    search by prefix: what an index finds against what it costs
"""

from mrl.figures.federated import draw_traffic
from mrl.figures.flows import draw_alluvial, draw_tree
from mrl.figures.hierarchy import draw_block_probes, draw_class_probes, draw_cluster_quality, draw_pair_matrix
from mrl.figures.levels import draw_levels
from mrl.figures.maps import compute_maps, draw_maps
from mrl.figures.panels import draw_costs, draw_differences, draw_lists, draw_popularity
from mrl.figures.plots import draw_accuracy, draw_groups, draw_learning_curves, draw_long_tail, draw_oracle_widths
from mrl.figures.plots import metric_title
from mrl.figures.cascade import draw_cascade
from mrl.figures.retrieval import draw_nest, draw_retrieval
from mrl.figures.stages import draw_stages
from mrl.figures.style import encode_png, name_models, save, select_models, write_whole
