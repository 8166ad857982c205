"""The collectives, in three processes of this machine and in one."""

from __future__ import annotations

import platform
import subprocess
import sys
from textwrap import dedent

import pytest
import torch

from mrl.errors import RunError
from mrl.sharded.group import Group, join

COUNTS = (2, 0, 3)


def rows_of(rank: int) -> torch.Tensor:
    return torch.full((COUNTS[rank], 2), 10.0 * rank)


def everything(group: Group) -> dict:
    """What each collective gives, and the bytes that it sends."""
    counts = COUNTS[: group.size]
    found = {}

    def note(name: str, make) -> None:
        before, value = group.sent, make()
        found[name] = value, group.sent - before

    note("sum", lambda: group.sum(torch.tensor([1.5, group.rank], dtype=torch.float32)).tolist())
    note("whole", lambda: group.sum(torch.tensor([2**60 + 1], dtype=torch.int64)).tolist())
    note("largest", lambda: group.largest(float(group.rank % 2)))
    note("each", lambda: group.each(group.rank + 5))
    note("gather", lambda: group.gather(rows_of(group.rank), counts, spare=1)[:, 1].tolist())
    to_each = [1, 0, 2][: group.size]
    sent = torch.arange(sum(to_each), dtype=torch.int32)[:, None] + 100 * group.rank
    note("swap", lambda: group.swap(sent, to_each)[:, 0].tolist())
    note("tell", lambda: group.tell(lambda: {"chosen": [0.5, "ü"]}))
    note("pieces", lambda: [piece[:, 0].tolist() for piece in group.pieces(rows_of(group.rank), most=16)])
    tables = [[2, 2], [1]]
    note(
        "from_first", lambda: [t.sum().item() for t in group.from_first(lambda: list(map(torch.ones, tables)), tables)]
    )
    return found


def make_ones(shapes: list[list[int]]) -> list[torch.Tensor]:
    return [torch.ones(*shape) for shape in shapes]


def refused(group: Group) -> str:
    def fail() -> list[torch.Tensor]:
        raise RunError("raise l2")

    try:
        group.from_first(fail, [[1]])
    except RunError as error:
        return str(error)
    return "nothing"


def test_collectives_of_three_processes(processes):
    first, second, third = processes.run(3, everything)
    for each in (first, second, third):
        assert each["sum"] == ([4.5, 3.0], 16 * 2 * 2 // 3)
        assert each["whole"][0] == [3 * 2**60 + 3], "beyond what float64 holds exactly"
        assert each["largest"][0] == 1.0
        assert each["each"][0] == [5, 6, 7]
        assert each["gather"][0] == [0.0, 0.0, 20.0, 20.0, 20.0, 0.0]
        assert each["tell"][0] == {"chosen": [0.5, "ü"]}
    assert [each["gather"][1] for each in (first, second, third)] == [2 * 8 * 2, 0, 3 * 8 * 2]
    assert [each["swap"][0] for each in (first, second, third)] == [[0, 100, 200], [], [1, 2, 101, 102, 201, 202]]
    told = 3 * 8 * 2 // 3  # how many rows come is asked first
    assert [each["swap"][1] - told for each in (first, second, third)] == [2 * 4, 3 * 4, 1 * 4]
    assert [each["pieces"][0] for each in (first, second, third)] == [[[0, 0], [20, 20], [20]], [], []]
    assert all(each["from_first"][0] == [4.0, 1.0] for each in (first, second, third))


def test_one_process_sends_nothing(processes):
    (alone,) = processes.run(1, everything)
    assert {name: value for name, (value, _) in alone.items()} == {
        "sum": [1.5, 0.0], "whole": [2**60 + 1], "largest": 0.0, "each": [5], "gather": [0.0, 0.0, 0.0], "swap": [0],
        "tell": {"chosen": [0.5, "ü"]}, "pieces": [[0.0, 0.0]], "from_first": [4.0, 1.0],
    }  # fmt: skip
    assert all(sent == 0 for _, sent in alone.values())


def test_what_the_first_process_cannot_do_is_said_in_all(processes):
    assert processes.run(3, refused) == ["raise l2"] * 3


@pytest.mark.parametrize("size", [2, 3])
def test_a_second_collective_of_fewer_processes_works_beside_those_of_all(processes, size):
    assert [found["each"][0] for found in processes.run(size, everything)] == [[5, 6, 7][:size]] * size


def test_without_torchrun_there_is_one_process(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    group = join("cpu")
    assert (group.rank, group.size, group.is_first) == (0, 1, True)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc alone")
def test_large_tables_go_back_to_the_system_when_freed():
    code = """
    import psutil, torch
    from mrl.sharded.group import map_large
    map_large()
    tables = [torch.ones(2**21) for _ in range(8)]  # 8 MiB each
    held = psutil.Process().memory_info().rss
    tables[:-1] = []  # the last one stays, on top of what is freed
    print(held - psutil.Process().memory_info().rss)
    """  # a process of its own: what others have freed before would be taken first
    said = subprocess.run([sys.executable, "-c", dedent(code)], check=True, capture_output=True, text=True).stdout
    assert int(said) > 7 * 2**23 - 2**20
