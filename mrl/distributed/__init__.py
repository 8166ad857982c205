"""Beyond one process: tables and data sharded over processes and machines, on `torch.distributed` under `torchrun`.

    group          the processes of a run, and the collectives that they need, bytes counted
    rows           rows shared out by their work; what they point to, fetched from the others
    exact          products and sums that are the same bit for bit in any number of processes
    propagation    vectors that pick up a share of their neighbours', on shards
    least_squares  iALS, nested least squares and principal axes on shards
    rotation       the learned rotation, by users that are sent to the first process
    parquet        Parquet folders read by shards: ids, pairs and splits
    data           the interactions of one's own users, of any data set
    evaluation     all items ranked for one's own users; metrics that add up exactly
    train          a run on shards, from settings to a run directory
    launch         processes started by torchrun, and what each of them does

Every process runs the same program and calls the same collectives in the same order.
"""

from mrl.distributed.group import Group, join, leave
from mrl.distributed.rows import Links, Rows, Shard, shard, share_rows, take_own
from mrl.distributed.least_squares import fit_least_squares
from mrl.distributed.data import ShardedData, load_sharded
from mrl.distributed.evaluation import evaluate
from mrl.distributed.train import check_sharded, train
from mrl.distributed.launch import fit
