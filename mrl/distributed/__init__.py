"""Beyond one process: tables and data sharded over processes and machines, on `torch.distributed` under `torchrun`.

    group          the processes of a run, and the collectives that they need, bytes counted
    rows           rows shared out by their work; what they point to, fetched from the others
    least_squares  iALS, nested least squares and principal axes on shards

Every process runs the same program and calls the same collectives in the same order.
"""

from mrl.distributed.group import Group, join, leave
from mrl.distributed.rows import Links, Rows, Shard, shard, share_rows, take_own
from mrl.distributed.least_squares import fit_least_squares
