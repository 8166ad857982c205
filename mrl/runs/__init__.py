"""A run directory: what a training writes and everything after it reads.

    config.json             every setting
    weights.safetensors     users (U, D), items (I, D) as they score; backbone.* to go on training
    ids.parquet             side, row, raw id, item labels
    seen.safetensors        what each user is known to have met, left out of recommendations: the positives that were
                            trained on, and apart from them what min_rating dropped
    history.csv             a row an epoch, a trial of the search, a least-squares fit or a rotation
    metrics.csv             dataset, model, protocol, seed, split, width, metric, k, value
    per_user.parquet        the same by user, where asked for
    clients.csv             the same by client group, of a federated run
    environment.json        versions, device and its fast paths, seconds, memory, data fingerprint, git commit; what was
                            chosen, widths that were found included; what wider and narrower vectors would do
    README.md               the model card: what the run is, how good, how to use it, what its data allow
    accuracy.svg            its picture: Recall and NDCG on test by width
    checkpoint.safetensors  while training only

Each file is complete at any moment: written beside its place and renamed. A directory with metrics.csv is a finished
run; one with a checkpoint alone was interrupted, and training with the same settings resumes it.

    run         a finished run, read back, and recommendations from it
    directory   the one writer of a run directory
    card        the model card of a run, and its picture
    hub         runs on the Hugging Face hub, fetched and shared
    results     all that a finished run leaves there
    files       its files read back, in forked processes, too
    lists       recommendations as a table
    manifest    any folder with checksums, complete or absent: an index, an export
    tensorfile  tensors on disk, with a checksum and without pickles
    progress    the line that says where a run stands, and how long it will take
    tables      what a reader is told of a run: what it will do, and its tables
"""

from mrl.runs.directory import RunDirectory, check_compatible, default_path, environment, peak_memory_mib, run_path
from mrl.runs.progress import (
    REFIT_SHARE, Progress, describe_chosen, describe_tried, log_trial, readable_seconds, share_done, tell_end,
)  # fmt: skip
from mrl.runs.results import write_run
from mrl.runs.run import Run, differences, load
