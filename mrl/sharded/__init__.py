"""Tables whose rows live with their owners, each in one of several processes: shared out, fetched, trained by epochs.

    group     the processes of a run, and the collectives that they need, bytes counted
    rows      rows shared out by their work; what they point to, fetched from the others
    asked     rows of others by number: asked for, answered by their owners, gradients returned
    order     where one's own interactions stand in the random order of all
    gates     what the rule dens learns beside them, the same in all processes
    mixes     negatives that the rule mix mixes with positives
    epochs    sampled epochs of nested BPR on sharded tables: MRL4Rec in several processes
    ranking   the best items of one's own users, items gathered some at a time
    cost      seconds and bytes of such an epoch by a formula

`mrl.distributed` trains whole runs on them.
"""

from mrl.sharded.group import Group, join, leave
from mrl.sharded.rows import Links, Rows, Shard, shard, share_rows, take_own
from mrl.sharded.asked import Asked
from mrl.sharded.order import own_places
from mrl.sharded.gates import Gates
from mrl.sharded.mixes import mixed_gradients
from mrl.sharded.epochs import ShardedTrainer, check_epochs
from mrl.sharded.ranking import ShardedRanking
from mrl.sharded.cost import EpochLoad, Machine
