"""Runs on the Hugging Face hub, by `huggingface_hub` (the extra `hub`): the files of a run directory, and no others.

Of a repository only the names in `SHARED` are ever fetched, none of which holds a pickle. HF_ENDPOINT, HF_TOKEN,
HF_HOME and HF_HUB_OFFLINE mean what they mean there.
"""

from __future__ import annotations

import importlib.util
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mrl.errors import ConfigError, RunError
from mrl.runs.card import CARD, PICTURE

ADDRESS = re.compile(r"hf:/{1,2}([\w-][\w.-]*/[\w-][\w.-]*)(?:@([\w./-]+))?")  # a Path has one slash of two
NEEDED = ("config.json", "environment.json", "metrics.csv", "ids.parquet")
SHARED = (*NEEDED, "weights.safetensors", "seen.safetensors", "history.csv", "per_user.parquet", CARD, PICTURE)
PICKLES = (".bin", ".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".joblib")


def is_address(path: str | os.PathLike[str]) -> bool:
    """Whether a path is an address on the hub: it starts with `hf:/`."""
    return os.fspath(path).startswith("hf:/")


def download(address: str | os.PathLike[str]) -> Path:
    """The folder, in the cache of the hub, with the files of a run at hf://organisation/name or …/name@revision.

    Raises ConfigError for another form, RunError where it is not there, not to be seen or out of reach, or holds no
    run. What was fetched before is found without the network.
    """
    text = os.fspath(address)
    match = ADDRESS.fullmatch(text)
    if match is None:
        raise ConfigError(f"{text}: give hf://organisation/name, or hf://organisation/name@revision")
    repo, revision = match[1], match[2]
    hub = _package()
    with _in_one_line(text):
        folder = Path(hub.snapshot_download(repo, revision=revision, allow_patterns=[*SHARED], endpoint=_endpoint()))
        missing = [name for name in NEEDED if not (folder / name).is_file()]
        if not missing:
            return folder
        there = _api(hub).list_repo_files(repo, revision=revision)
    pickles = [name for name in there if name.endswith(PICKLES)]
    never = f"; {pickles[0]} may be a pickle, which can run code when read, and is never fetched" if pickles else ""
    raise RunError(f"{text}: is not a run of mrl, it has no {', '.join(missing)}{never}; give one that Run.push made")


def upload(folder: Path, repo: str, *, card: str, private: bool) -> str:
    """The files of the run in `folder` as one commit to `repo`, made where there is none. Returns hf://repo@commit.

    card: the README.md for a folder that has none. Files of a run that `repo` has and `folder` has not are removed from
    it, others stay. private: of a repository that is made; one that is there stays as it is. Raises ConfigError where
    `repo` is no name, RunError where it cannot be written.
    """
    if not isinstance(repo, str) or not (match := ADDRESS.fullmatch(f"hf://{repo.removeprefix('hf://')}")) or match[2]:
        raise ConfigError(f"push({repo!r}): give a repository of the hub such as organisation/name")
    if not isinstance(private, bool):
        raise ConfigError(f"private={private!r}: must be True or False")
    hub, repo = _package(), match[1]
    with _in_one_line(f"hf://{repo}"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "It seems that you are about to commit a data file", UserWarning)
        api = _api(hub)
        api.create_repo(repo, private=private, exist_ok=True)
        files: dict[str, Any] = {name: folder / name for name in SHARED if (folder / name).is_file()}
        files.setdefault(CARD, card.encode())
        left = [name for name in api.list_repo_files(repo) if name in SHARED and name not in files]
        operations = [hub.CommitOperationAdd(name, source) for name, source in files.items()]
        operations += [hub.CommitOperationDelete(name) for name in left]
        made = api.create_commit(repo, operations, commit_message=f"Run {folder.name}")
    return f"hf://{repo}@{made.oid}"


def _package() -> Any:
    if importlib.util.find_spec("huggingface_hub") is None:
        raise ConfigError("hf://: huggingface_hub is not installed; pip install 'mrl[hub]'")
    import huggingface_hub

    return huggingface_hub


def _endpoint() -> str | None:
    """Read when it is asked for; huggingface_hub reads it when it is imported."""
    return os.environ.get("HF_ENDPOINT") or None


def _api(hub: Any) -> Any:
    return hub.HfApi(endpoint=_endpoint())


@contextmanager
def _in_one_line(address: str) -> Iterator[None]:
    """Whatever the hub's package raises, as a RunError that names the address and the remedy.

    It has errors of its own, of its HTTP client, of its storage and of the system, with no base in common.
    """
    from huggingface_hub import errors

    try:
        yield
    except errors.RevisionNotFoundError:
        raise RunError(
            f"{address}: there is no such revision; give a branch, a tag or a commit that is there"
        ) from None
    except errors.LocalEntryNotFoundError as error:
        raise RunError(
            f"{address}: the hub is out of reach ({_cause(error)}) and no copy is in the cache; try again with a "
            "network, or load a folder"
        ) from None
    except Exception as error:
        code = getattr(getattr(error, "response", None), "status_code", None)
        if isinstance(error, errors.RepositoryNotFoundError) or code in (401, 403, 404):
            raise RunError(
                f"{address}: is not there, or not for you to see or write (HTTP {code}); check the name, and log in by "
                "`hf auth login` or HF_TOKEN"
            ) from None
        told = f"HTTP {code}" if code else _first_line(error)
        raise RunError(f"{address}: the hub did not do it ({told}); try again later") from error


def _cause(error: BaseException) -> str:
    """The first line of the innermost error."""
    chain: Sequence[BaseException] = [error]
    while (inner := chain[-1].__cause__) is not None and inner not in chain:
        chain = [*chain, inner]
    return _first_line(chain[-1])


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
