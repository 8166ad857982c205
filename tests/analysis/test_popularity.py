"""The curve of popularity projected out, and what probes still find: tables and sentences with a known answer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from served import popular_run

from mrl.analysis import measure_popularity, probe_popularity
from mrl.analysis.popularity import METRICS, describe_popularity, describe_probes
from mrl.analysis.profile import profile_lists
from mrl.data import Interactions, Positives
from mrl.errors import RunError
from mrl.evaluation import evaluate
from mrl.popularity import project
from mrl.runs import Run


def data_of(run: Run) -> Interactions:
    """The run's positives as train; as test what is left of a tenth of all pairs, popular items more often."""
    rng = np.random.default_rng(1)
    shape = len(run.user_ids), len(run.item_ids)
    share = run.seen.item_counts.numpy() / run.seen.item_counts.numpy().mean() / 10
    test = Positives.from_pairs(*(rng.random(shape) < share).nonzero(), *shape).without(run.seen)
    return Interactions("made", run.seen, Positives.empty(*shape), test, run.user_ids, run.item_ids)


def test_the_curve_is_of_both_sides_projected_and_begins_as_trained() -> None:
    run = popular_run()
    data, widths = data_of(run), (4, 8)
    table = measure_popularity(run, data, gammas=[1, 0.5], k=5, device="cpu")
    assert table.columns == ["gamma", "width", "metric", "k", "value"]
    assert table["metric"].unique(maintain_order=True).to_list() == list(METRICS)
    assert table["gamma"].unique().sort().to_list() == [0, 0.5, 1] and len(table) == 3 * 2 * len(METRICS)
    for gamma in (0, 0.5, 1):
        sides = [project(side, run.popularity.directions, gamma) for side in (run.users, run.items)]
        expected = evaluate(*sides, data, widths=widths, ks=(5,))
        lists, groups = profile_lists(*sides, data, widths=widths, k=5)
        for width in widths:
            found = dict(table.filter(gamma=gamma, width=width).select("metric", "value").iter_rows())
            assert found["recall"] == expected.value("recall@5", width)
            assert found["ndcg"] == expected.value("ndcg@5", width)
            assert found["tail_recall"] == groups.filter(group="tail", width=width)["value"][0]
            for metric in ("popularity", "gini", "coverage"):
                assert found[metric] == lists.filter(metric=metric, width=width)["value"][0]
    widest = table.filter(width=8, metric="popularity").sort("gamma")["value"]
    assert widest[2] < widest[0]


def test_a_run_that_does_not_say_what_was_met_is_refused() -> None:
    run = popular_run()
    with pytest.raises(RunError, match=r"has no seen.safetensors, so how popular items are is unknown"):
        measure_popularity(replace(run, seen=None), data_of(run))


def test_the_network_finds_in_lengths_what_the_linear_probe_does_not() -> None:
    rng = np.random.default_rng(0)
    shape = 60, 900
    seen = Positives.from_pairs(*(rng.random(shape) < rng.beta(0.5, 2, shape[1])).nonzero(), *shape)
    popular = seen.item_counts.float().log1p()[:, None]
    lengths = torch.from_numpy(rng.standard_normal((shape[1], 2)).astype(np.float32))
    lengths /= lengths.norm(dim=1, keepdim=True)
    items = torch.cat([popular + 0.1 * lengths[:, :1], lengths * popular], dim=1)  # (I, 3)
    run = replace(
        popular_run(),
        user_ids=np.arange(60),
        item_ids=np.arange(900),
        labels=None,
        seen=seen,
        weights={"users": torch.ones(60, 3), "items": items},
        config={"widths": [1, 3]},
    )
    table = probe_popularity(run)
    assert table.select("probe", "width").rows() == [(p, w) for p in ("linear", "network") for w in (1, 3)]
    linear, network = (
        table.filter(probe=probe).select("before", "after").to_numpy() for probe in ("linear", "network")
    )
    assert (linear[:, 0] > 0.9).all() and (linear[:, 1] < 0.02).all()
    assert (network[:, 0] > 0.9).all() and network[0, 1] < 0.05 and network[1, 1] > 0.8  # width 1: nothing is left
    assert table.equals(probe_popularity(run))
    assert describe_probes(table).endswith("What is left tells popularity in ways that are not linear.")


def test_sentences() -> None:
    values = {
        "recall": (0.4, 0.38, 0.3),
        "tail_recall": (0.0, 0.01, 0.02),
        "popularity": (200, 150, 120),
        "coverage": (0.3, 0.4, 0.5),
    }
    rows = [
        (gamma, width, metric, 20, value * width / 8)
        for metric, each in values.items()
        for gamma, value in zip((0.0, 0.5, 1.0), each, strict=True)
        for width in (4, 8)
    ]
    table = pl.DataFrame(rows, schema=["gamma", "width", "metric", "k", "value"], orient="row")
    start = "At γ = 1, width 8, Recall@20 is 0.3000 (γ = 0: 0.4000)"
    rest = "; a recommended item has 120 (γ = 0: 200) interactions on average, and 50 % (γ = 0: 30 %) of the items are "
    end = "recommended to anybody. Of Recall@20 as trained remain 95 % at γ = 0.5 and 75 % at γ = 1."
    tail = ", that of the tail 0.0200 (γ = 0: 0.0000)"
    assert describe_popularity(table) == start + tail + rest + end
    assert describe_popularity(table.filter(pl.col("metric") != "tail_recall")) == start + rest + end
    probes = pl.DataFrame(
        {
            "probe": ["linear", "linear", "network", "network"],
            "width": [4, 8, 4, 8],
            "before": [0.5, 0.9, 0.6, 0.95],
            "after": [-0.001, 0.01, -0.0001, 0.019],
        }
    )
    assert describe_probes(probes) == (
        "At γ = 1 a linear probe of held-out items reads log popularity with R² -0.001 to 0.010 by width (0.500 to "
        "0.900 as trained), a small neural network with R² 0.000 to 0.019 by width (0.600 to 0.950 as trained)."
    )
