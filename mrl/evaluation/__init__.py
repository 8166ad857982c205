"""Vectors or scores → metrics: every item is ranked for every user, at every width in one pass.

evaluate    the metrics with their formulas, and the pass over all users
ranking     the best k items of a user, and how ties are broken
"""

from mrl.evaluation.evaluate import (
    METRICS, Evaluation, Sums, check_ks, evaluate, evaluate_ranking, evaluate_scores, sum_metrics,
)  # fmt: skip
from mrl.evaluation.ranking import VectorRanking, top_k, users_per_batch
