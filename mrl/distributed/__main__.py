"""`torchrun --nproc-per-node 2 -m mrl.distributed dataset ml-100k recipe least_squares`: one process of a training."""

import sys

from mrl.distributed.launch import run

if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
