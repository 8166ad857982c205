"""The inner loops: compiled for the CPU by numba, recorded as a CUDA graph on a GPU, never called by users directly.

Loops run over slices of a batch in threads, and give the same for any number of threads.

    threads         compile a loop at its first call; run it over slices in threads
    candidates      uniform unobserved items, and their scores at every level
    bpr             nested BPR and its gradients in one pass, by triplet or summed by row
    row_adam        Adam that touches only the rows of a batch
    products        products of tables by the faster library, where it rounds nothing
    sparse          a sparse matrix times a table of vectors
    row_systems     the small linear systems of least squares, row by row
    topk            the best k of a row
    scan            scores of one query for all items, from codes of fewer bits
    cuda_graph      a training step recorded once as a CUDA graph and replayed
    fast_paths      what only a GPU does, compared with the plain path once a run, and dropped where it differs
"""

from mrl.kernels.bpr import Gradients, bpr_gradients, bpr_sums
from mrl.kernels.candidates import UniformCandidates, level_scores, mix, pick_hardest, similarity
from mrl.kernels.cuda_graph import GraphStep
from mrl.kernels.products import fast_products
from mrl.kernels.row_adam import RowAdam
from mrl.kernels.scan import scan_bits, scan_halves, scan_numbers
from mrl.kernels.sparse import propagate, sparse_matrix
from mrl.kernels.threads import compiled, has_short_floats, in_threads, is_forked
from mrl.kernels.topk import best_of_scores, best_of_vector, best_of_vectors, mark_hits, rerank, shortlist
