r"""Beyond one process: tables and data sharded over processes and machines, on `torch.distributed` under `torchrun`.

    exact          products and sums that are the same bit for bit in any number of processes
    propagation    vectors that pick up a share of their neighbours', on shards
    least_squares  iALS, nested least squares and principal axes on shards
    rotation       the learned rotation, by users that are sent to the first process
    parquet        Parquet folders read by shards: ids, pairs and splits
    checkpoint     what a run goes on from, by torch.distributed.checkpoint, in any number of processes
    data           the interactions of one's own users, of any data set
    evaluation     all items ranked for one's own users; metrics that add up exactly
    cost           seconds and bytes sent of a sweep and an evaluation, memory of a run, by formulas
    training       a run under way: what its checkpoints keep, and what a recipe makes of it
    graph_epochs   epochs of the nested softmax through propagation, on shards
    epochs         epochs of mrl4rec or default: validated, the best one kept, and the refit
    train          a run on shards, from settings to a run directory
    launch         processes started by torchrun, and what each of them does

On one machine, from Python `mrl.fit(config, processes=2)`, in `train.ipynb` `-p processes 2`, or by hand, with the
parameters of `train.ipynb` as `name value`:

    torchrun --standalone --nproc-per-node 2 -m mrl.distributed dataset interactions/ recipe least_squares

Vectors and metrics of least_squares and mrl4rec are the same bit for bit for any number of processes of one kind of
machine with as many threads each; those of default, where epochs are kept, but for rounding, which epochs enlarge, as
they do with the rule dens, up to the noise of seeds. With other OMP_NUM_THREADS, or without shards (`processes=1`),
sums of least squares are added up in another order: scores differ by some 1e-6, metrics by less than 1e-4, or 1e-3
where a rotation is learned, which makes much of little; mrl4rec trains the same vectors there (`mrl.sharded.epochs`
says up to where). A Parquet folder is split by a hash here and by draws there; the splits of other data, which every
process reads whole, are the same. Refused: lightgcn, losses other than bpr and softmax, prototypes, dropout.

Each process holds its users' and its items' interactions, their rows of the tables (4 · D bytes each), and for half a
sweep what these point to of the other side, at most `mrl.sharded.rows.FETCHED` numbers; all ids, in the first one and
where a Parquet folder is read; while it evaluates all items, at most `mrl.sharded.ranking.BLOCK` numbers at a time; and
390 to 540 MiB of the program: `mrl.distributed.cost`. The first process searches the settings on users drawn at random
with at most a million interactions (thorough: three), and writes the run directory.

On two machines, A and B, of 8 processes each (none of what follows has been run by the authors):

    torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint A:29400 --rdzv-id run1 \
        -m mrl.distributed dataset /shared/interactions recipe least_squares run_dir /shared/runs/run1

the same line on both. /shared is a folder that all of them see (NFS, Lustre, a mounted object store): all read the data
there; only the first process, on A, writes, and mrl.load reads the run anywhere. A mounted object store has to rename
files; where it does not, let run_dir be on a local disk of A, and copy it. Environment: OMP_NUM_THREADS, the cores of a
machine by its processes; GLOO_SOCKET_IFNAME (or NCCL_SOCKET_IFNAME on GPUs), the network between them, such as eth0;
MRL_DATA, the cache of named data sets, on /shared, too. Ports: 29400, and those that gloo picks. With GPUs start as
many processes as a machine has of them: NCCL is taken by itself, but by mrl4rec, which computes on CPUs. A process that
ends takes the others with it; with `--max-restarts 3` (given by `mrl.fit`) all start again, from the last sweep or
validation, as does a later run of any number of them. Machines need a shared run_dir for that, and
TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1, or old addresses are met (not run).

Slurm (not run):

    #SBATCH --nodes 2 --ntasks-per-node 1 --cpus-per-task 32
    export OMP_NUM_THREADS=4
    head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
    srun torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint "$head:29400" \
        --rdzv-id "$SLURM_JOB_ID" -m mrl.distributed dataset /shared/interactions recipe least_squares

Kubernetes, with the training operator of Kubeflow, which sets the rendezvous for torchrun (not run):

    apiVersion: kubeflow.org/v1
    kind: PyTorchJob
    metadata: {name: mrl}
    spec:
      nprocPerNode: "8"
      pytorchReplicaSpecs:
        Worker:
          replicas: 2
          restartPolicy: Never
          template:
            spec:
              containers:
                - name: pytorch
                  image: registry.example/mrl
                  command: [torchrun, -m, mrl.distributed, dataset, /shared/interactions, recipe, least_squares]
                  env: [{name: OMP_NUM_THREADS, value: "4"}]
                  volumeMounts: [{name: shared, mountPath: /shared}]
              volumes: [{name: shared, persistentVolumeClaim: {claimName: interactions}}]
"""

from mrl.distributed.least_squares import fit_least_squares
from mrl.distributed.cost import Load, Machine, fit_factors
from mrl.distributed.data import ShardedData, load_sharded
from mrl.distributed.evaluation import evaluate
from mrl.distributed.train import check_sharded, train
from mrl.distributed.launch import fit
