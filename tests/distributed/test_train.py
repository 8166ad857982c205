"""A run on shards: the same run directory in any number of processes, and that of one process without shards."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from settings import train_config

from mrl import TrainConfig, fit, load
from mrl.distributed.train import check_sharded, train
from mrl.errors import ConfigError, MRLError
from mrl.runs import Progress
from mrl.sharded import rows
from mrl.sharded.group import Group

PLANTED = {"num_users": 300, "num_items": 90, "interactions": 8000, "branching": (3, 3)}
GIVEN = {
    "alpha0": 0.1, "frequency_l2": 0.01, "fit_width": 16, "sweeps": 2, "nested_sweeps": 1, "propagation": (0.5, 0.3),
    "rotation": True,
}  # fmt: skip
QUICK = {"dataset": "planted", "planted": PLANTED, "recipe": "least_squares", "widths": (2, 4, 8), "device": "cpu"}


def sharded(group: Group, config: TrainConfig) -> str:
    rows.TILE = 1000
    torch.set_num_threads(1)
    try:
        return str(train(config, group, Progress(shown=False)))
    except MRLError as error:
        return f"{type(error).__name__}: {error}"


# learning the rotation makes of rounding a thousand times as much: of so few users that shows
CASES = {
    "paper": ({"protocol": "paper", "rotation": False}, 1e-4),
    "honest": ({"per_user": True, "hops": 2}, 0.03),
}


@pytest.mark.parametrize("settings, tolerance", CASES.values(), ids=CASES)
def test_any_number_of_processes_writes_the_same_run(processes, tmp_path, settings, tolerance):
    settings = GIVEN | settings
    runs = {}
    for size in (1, 2, 3):
        config = train_config(**QUICK, **settings, run_dir=str(tmp_path / str(size)))
        assert processes.run(size, sharded, config) == [str(tmp_path / str(size))] * size
        runs[size] = load(tmp_path / str(size))
    alone = fit(train_config(**QUICK, **settings, run_dir=str(tmp_path / "alone")), progress=False)
    for size, run in runs.items():
        assert run.environment["processes"] == size and len(run.environment["peak_memory_mib_by_process"]) == size
        assert (run.environment["bytes_sent"] > 0) == (size > 1)
        assert run.environment["fingerprint"] == alone.environment["fingerprint"]
        assert run.seen == alone.seen
        assert run.weights.keys() == alone.weights.keys()
        for name, table in runs[1].weights.items():
            assert torch.equal(run.weights[name], table), f"{size} processes: {name}"
        assert run.metrics.equals(runs[1].metrics)
        assert run.metrics.columns == alone.metrics.columns and len(run.metrics) == len(alone.metrics)
        near = np.abs(run.metrics["value"].to_numpy() - alone.metrics["value"].to_numpy())
        assert near.max() < tolerance
        if settings.get("per_user"):
            assert run.per_user.equals(runs[1].per_user) and len(run.per_user) == len(alone.per_user)
        made, wanted = (set(Path(each.path).iterdir()) for each in (run, alone))
        assert {path.name for path in made} == {path.name for path in wanted}
        assert run.recommend(run.user_ids[:3], k=5, width=4).equals(runs[1].recommend(run.user_ids[:3], k=5, width=4))
        assert set(run.history["phase"]) == set(alone.history["phase"])


def test_settings_are_searched_by_the_first_process(processes, tmp_path):
    found = []
    for size in (1, 2):
        config = train_config(**QUICK, alpha0=0.1, frequency_l2=0.01, run_dir=str(tmp_path / str(size)))
        processes.run(size, sharded, config)
        run = load(tmp_path / str(size))
        assert len(run.trials) > 2
        found.append((run.environment["chosen"], run.metrics))
    assert found[0][0] == found[1][0] and found[0][1].equals(found[1][1])
    alone = fit(train_config(**QUICK, alpha0=0.1, frequency_l2=0.01, run_dir=str(tmp_path / "alone")), progress=False)
    assert json.loads(json.dumps(alone.environment["chosen"])) == found[0][0], "the search looks at all of so little"


def test_what_the_first_process_cannot_do_is_an_error_in_all(processes, tmp_path):
    (tmp_path / "file").write_text("")
    config = train_config(**QUICK, **GIVEN, run_dir=str(tmp_path / "file"))
    said = processes.run(3, sharded, config)
    assert all("cannot be written" in each for each in said), said


@pytest.mark.parametrize(
    "settings, said",
    [
        ({"backbone": "lightgcn"}, "backbone='lightgcn': each step takes the vectors of all.*; take backbone='mf'"),
        ({"loss": "bpr", "recipe": "default"}, "loss='bpr': .*; take loss='softmax', or processes=1"),
    ],
    ids=["lightgcn", "pairs"],
)
def test_what_is_not_sharded_is_refused(settings, said):
    with pytest.raises(ConfigError, match=said):
        check_sharded(TrainConfig(**settings))
    check_sharded(TrainConfig(**settings | {"recipe": "default", "backbone": None, "epochs": 0}))
