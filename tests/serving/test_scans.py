"""The first look at all items: both backends leave out the same, and refuse what they cannot do."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from served import made_run

from mrl.errors import ConfigError
from mrl.serving import Index
from mrl.serving.codes import Codes
from mrl.serving.scans import KINDS, FaissScan, FaissSettings, PlainScan, load_faiss

RUN = made_run(0, items=200, ties=False)
ITEMS, QUERY = RUN.items.numpy(), RUN.users[0].numpy()


def scans() -> list[PlainScan | FaissScan]:
    pytest.importorskip("faiss")
    plain = [PlainScan(Codes.encode(ITEMS, 32))]
    return plain + [FaissScan.build(ITEMS, 32, FaissSettings(kind=kind, probes=99, ef=200), 1) for kind in KINDS]


def test_all_leave_out_what_is_hidden_and_denied() -> None:
    denied, hidden = np.zeros(200, bool), np.array([3, 77, 150])
    denied[::2] = True
    left = [row for row in np.argsort(-(ITEMS @ QUERY)).tolist() if not denied[row] and row not in hidden]
    for scan in scans():
        assert set(scan.candidates(QUERY, 15, denied, hidden).tolist()) == set(left[:15])
        rows, scores = scan.ranked(QUERY, 15, denied, hidden)
        assert rows.tolist() == left[:15]
        assert scores == pytest.approx((ITEMS @ QUERY)[left[:15]], rel=1e-5)
        assert len(scan.ranked(QUERY, 15, np.ones(200, bool), hidden)[0]) == 0


def test_what_faiss_has_not_is_refused() -> None:
    pytest.importorskip("faiss")
    for bits, kind in ((1, "flat"), (8, "panorama")):
        with pytest.raises(ConfigError, match=rf"^bits={bits}: kind='{kind}' of faiss has no such codes"):
            FaissScan.build(ITEMS, bits, FaissSettings(kind=kind), 1)
    with pytest.raises(ConfigError, match=r"^kind='annoy': must be one of flat, ivf, hnsw, panorama$"):
        FaissSettings(kind="annoy")
    with pytest.raises(ConfigError, match=r"^probes=0: must be a whole number, at least 1$"):
        FaissSettings(probes=0)
    with pytest.raises(ConfigError, match=r"^depth: settings of faiss are kind, cells, probes, links, ef$"):
        Index(RUN, backend="faiss", depth=3)


def test_without_faiss_the_extra_is_named(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ConfigError, match=r"^backend='faiss' needs faiss-cpu: pip install 'mrl\[serve\]'$"):
        load_faiss()
