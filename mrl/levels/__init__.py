"""What the levels know of a taxonomy and of users, beside models that are not nested: several models, data sets, seeds.

depths      one matrix and classes of its rows → which width knows which class, beside chance
users       what is known of users, as classes
study       runs → one table: means over seeds with intervals, what each width keeps, what nesting adds
sentences   that table in words
prototypes  nested prototypes beside k-means at equal numbers of clusters
prototype_study  the same by sets of widths and numbers of prototypes; what they do to accuracy as a term of training
semantic_ids  one code a width for every item of a run
"""

from mrl.levels.depths import in_fifths, measure_depths
from mrl.levels.prototype_study import measure_term, study_clusterings, study_term, summarise_clusterings
from mrl.levels.prototypes import balanced_kmeans, compare_clusterings, user_halves
from mrl.levels.semantic_ids import write_semantic_ids
from mrl.levels.sentences import describe_levels
from mrl.levels.study import measure_run, summarise_levels
from mrl.levels.users import user_classes
