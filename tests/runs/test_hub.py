"""Runs go to a hub and come back byte for byte, and what is no run, damaged or out of reach is told in one line."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hub_server import TOKEN, Hub
from runs.test_results import written_run

from mrl import ConfigError, Run, RunError, load
from mrl.runs import hub as rooms
from mrl.runs.card import CARD, PICTURE
from mrl.runs.hub import SHARED

constants = pytest.importorskip("huggingface_hub.constants", reason="the extra `hub` is not installed")
REPO, ADDRESS = "org/name", "hf://org/name"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub, with a cache of its own and the token that it asks for."""
    server = Hub()
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # large files by git LFS
    yield server
    server.close()


@pytest.fixture
def run(tmp_path, monkeypatch) -> Run:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return written_run()


def files_of(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if not file.name.startswith(".")}


def refusal(make, kind=RunError) -> str:
    with pytest.raises(kind) as caught:
        make()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_run_comes_back_byte_for_byte(hub, run) -> None:
    address = run.push(REPO)
    sent = files_of(run.path)
    assert {name: content for name, content in hub.files(REPO).items() if name != ".gitattributes"} == sent
    assert hub.repos[REPO].private and {CARD, PICTURE, "weights.safetensors"} <= set(sent) <= set(SHARED)
    assert address == f"{ADDRESS}@{hub.repos[REPO].commits[-1][0]}"
    for shown in (ADDRESS, Path(ADDRESS), f"{ADDRESS}@main", address):
        back = load(shown)
        assert files_of(back.path) == sent
        assert torch.equal(back.users, run.users) and torch.equal(back.items, run.items)
        user = run.user_ids[0]
        assert back.recommend(user, k=3, width=2).equals(run.recommend(user, k=3, width=2))


def test_only_the_files_of_a_run_are_fetched_or_replaced(hub, run) -> None:
    run.push(REPO)
    theirs = {"notes.txt": b"theirs", "per_user.parquet": b"of a run before", "model.pkl": b"\x80\x04."}
    hub.repos[REPO].commit(hub.files(REPO) | theirs)
    assert set(files_of(load(ADDRESS).path)) == {*files_of(run.path), "per_user.parquet"}
    run.push(REPO, private=False)
    assert set(theirs) - set(hub.files(REPO)) == {"per_user.parquet"}
    assert hub.repos[REPO].private  # one that is there stays as it is
    assert set(files_of(load(ADDRESS).path)) == set(files_of(run.path))
    fetched = {path.rpartition("/")[2] for _, path in hub.asked if "/resolve/" in path}
    assert fetched == {*files_of(run.path), "per_user.parquet"}


def test_a_repository_that_is_made_may_be_public_and_then_anybody_reads_it(hub, run, monkeypatch) -> None:
    run.push(REPO, private=False)
    monkeypatch.setenv("HF_TOKEN", "")
    assert torch.equal(load(ADDRESS).users, run.users)


def test_a_card_that_was_edited_goes_along_and_one_that_is_missing_is_made(hub, run) -> None:
    made = (run.path / CARD).read_text()
    (run.path / CARD).write_text(made.replace("library_name", "license: mit\nlibrary_name"))
    run.push(REPO)
    assert b"license: mit" in hub.files(REPO)[CARD]
    (run.path / CARD).unlink()
    run.push(REPO)
    assert hub.files(REPO)[CARD].decode() == made and not (run.path / CARD).exists()
    (run.path / CARD).write_text("---\n: [\n---\n")
    assert "Invalid metadata in README.md" in refusal(lambda: run.push(REPO))


def test_what_is_found_before_is_found_without_the_network(hub, run) -> None:
    run.push(REPO)
    load(ADDRESS)
    hub.close()
    assert torch.equal(load(ADDRESS).users, run.users)


@pytest.mark.robustness
@pytest.mark.parametrize("name", ["model.pkl", "pytorch_model.bin", "weights.pt"])
def test_a_repository_of_pickles_is_refused_and_nothing_of_it_fetched(hub, run, name) -> None:
    run.push(REPO)
    sha = hub.repos[REPO].commit({name: b"\x80\x04.", "config.json": b"{}"})
    message = refusal(lambda: load(ADDRESS))
    assert "is not a run of mrl, it has no environment.json, metrics.csv, ids.parquet" in message
    assert f"{name} may be a pickle" in message and "is never fetched" in message
    assert not [path for method, path in hub.asked if name in path and sha in path]
    hub.repos[REPO].commit({"notes.txt": b""})
    assert "it has no config.json" in refusal(lambda: load(ADDRESS))


@pytest.mark.robustness
@pytest.mark.parametrize("name", ["weights.safetensors", "seen.safetensors", "ids.parquet", "config.json"])
def test_a_damaged_file_is_refused_by_its_name(hub, run, name) -> None:
    run.push(REPO)
    content = bytearray(hub.files(REPO)[name])
    content[len(content) // 2 if name != "config.json" else 0] ^= 0xFF
    hub.repos[REPO].commit(hub.files(REPO) | {name: bytes(content)})
    message = refusal(lambda: load(ADDRESS))
    assert message.startswith(f"{ADDRESS}: ") and f"{name}: " in message


@pytest.mark.robustness
def test_a_pickle_under_the_name_of_the_weights_is_refused(hub, run) -> None:
    run.push(REPO)
    hub.repos[REPO].commit(hub.files(REPO) | {"weights.safetensors": b"\x80\x04K\x01."})
    assert "is a pickle" in refusal(lambda: load(ADDRESS))


@pytest.mark.robustness
def test_what_is_not_there_or_not_to_be_seen_is_told_with_the_remedy(hub, run, monkeypatch) -> None:
    assert refusal(lambda: load(ADDRESS)).endswith(
        "(HTTP 404); check the name, and log in by `hf auth login` or HF_TOKEN"
    )
    run.push(REPO)
    assert refusal(lambda: load(f"{ADDRESS}@v9")).startswith(f"{ADDRESS}@v9: there is no such revision")
    monkeypatch.setenv("HF_TOKEN", "")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", constants.HF_HUB_CACHE + "-of-another")
    assert "not for you to see or write (HTTP 401)" in refusal(lambda: load(ADDRESS))
    assert "not for you to see or write (HTTP 401)" in refusal(lambda: run.push("org/other"))
    assert "org/other" not in hub.repos


@pytest.mark.robustness
def test_a_hub_that_is_down_or_out_of_reach_is_told_so(hub, run, monkeypatch) -> None:
    hub.down = 418
    assert refusal(lambda: run.push(REPO)) == f"{ADDRESS}: the hub did not do it (HTTP 418); try again later"
    assert "the hub is out of reach" in refusal(lambda: load(ADDRESS)) and "418" in refusal(lambda: load(ADDRESS))
    hub.close()
    message = refusal(lambda: load(ADDRESS))
    assert message.startswith(f"{ADDRESS}: the hub is out of reach (") and message.endswith("or load a folder")
    assert refusal(lambda: run.push(REPO)).startswith(f"{ADDRESS}: the hub did not do it (")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "the hub is out of reach" in refusal(lambda: load(ADDRESS))


@pytest.mark.robustness
@pytest.mark.parametrize(
    "address", ["hf://", "hf://name", "hf://a/b/c", "hf://a/b@", "hf://../b", "hf://a b/c", "hf:/x"]
)
def test_an_address_of_another_form_is_refused(address) -> None:
    assert refusal(lambda: load(address), ConfigError).startswith(f"{address}: give hf://organisation/name")


@pytest.mark.robustness
@pytest.mark.parametrize("repo", ["name", "", None, 3, "a/b/c", "org/name@main", "../name"])
def test_a_repository_of_no_name_is_refused(run, repo) -> None:
    assert "give a repository of the hub" in refusal(lambda: run.push(repo), ConfigError)


@pytest.mark.robustness
def test_what_is_in_memory_alone_or_damaged_is_not_pushed(hub, run) -> None:
    other = replace(run, weights=run.weights | {"users": run.users + 1})
    assert "in memory alone" in refusal(lambda: other.push(REPO))
    assert "private='no': must be True or False" in refusal(lambda: run.push(REPO, private="no"), ConfigError)
    file = run.path / "weights.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x7f")
    assert "weights.safetensors" in refusal(lambda: run.push(REPO))
    assert hub.repos == {}


@pytest.mark.robustness
def test_without_the_package_the_extra_is_named(run, monkeypatch) -> None:
    monkeypatch.setattr(rooms.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for make in (lambda: load(ADDRESS), lambda: run.push(REPO)):
        assert refusal(make, ConfigError) == "hf://: huggingface_hub is not installed; pip install 'mrl[hub]'"
