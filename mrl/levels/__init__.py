"""What the levels of nested vectors are worth, beside other ways to get the same.

prototypes       nested prototypes beside k-means at equal numbers of clusters
prototype_study  the same by sets of widths and numbers of prototypes; what they do to accuracy as a term of training
semantic_ids     one code a width for every item of a run
"""

from mrl.levels.prototype_study import measure_term, study_clusterings
from mrl.levels.prototypes import balanced_kmeans, compare_clusterings, user_halves
from mrl.levels.semantic_ids import write_semantic_ids
