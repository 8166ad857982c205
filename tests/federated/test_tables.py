from __future__ import annotations

import numpy as np
import pytest
import torch

from mrl.errors import RunError
from mrl.evaluation import evaluate
from mrl.federated import client_table, make_clients
from mrl.federated.tables import by_client
from mrl.runs import load


def test_metrics_by_group_are_the_means_of_their_users(data, config):
    population = make_clients(config(groups=12), data.train)
    generator = torch.Generator().manual_seed(0)
    tables = torch.randn(90, 8, generator=generator), torch.randn(64, 8, generator=generator)
    result = evaluate(*tables, data, split="test", widths=(2, 8), ks=(20,), per_user=True)
    table = by_client(result, population, moment="last", round=7)
    assert set(table["moment"]) == {"last"} and set(table["round"]) == {7}
    values = {
        (user, width): value for user, width, metric, _, value in result.per_user.iter_rows() if metric == "recall"
    }
    for row in table.filter(metric="recall").iter_rows(named=True):
        group = [
            value
            for (user, width), value in values.items()
            if width == row["width"] and row["group"] in (None, int(population.widths[population.owner[user]]))
        ]
        assert row["users"] == len(group)
        assert row["value"] == pytest.approx(np.mean(group))
    assert table["group"].unique().sort().to_list() == [None, 2, 4, 8]


def test_a_run_of_another_kind_has_no_clients(tmp_path, monkeypatch):
    from mrl import TrainConfig, fit

    run = fit(
        TrainConfig(dataset="planted", planted={"num_users": 80, "num_items": 64, "interactions": 900}, widths=[2, 4],
                    recipe="mrl4rec", epochs=1, run_dir=str(tmp_path / "run")),
        progress=False,
    )  # fmt: skip
    with pytest.raises(RunError, match="is no federated run"):
        client_table(load(run.path))
