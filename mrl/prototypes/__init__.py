"""Nested prototypes: a table of prototypes a level, on prefixes only, whose items are spread evenly; trees of them.

sinkhorn    assignments in which prototypes are used equally
loss        the loss over the levels, its tables and their teacher
term        the same as a term of training
tree        child → parent between neighbouring levels, and semantic ids
fit         prototypes of vectors as they are
"""

from mrl.prototypes.fit import Prototypes, fit_prototypes
from mrl.prototypes.loss import PrototypeLoss, prototype_counts
from mrl.prototypes.sinkhorn import sinkhorn
from mrl.prototypes.term import PrototypeTerm
from mrl.prototypes.tree import semantic_codes, semantic_ids
