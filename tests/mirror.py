"""A mirror of data sets on the loopback that misbehaves in every way a real one does."""

from __future__ import annotations

import hashlib
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from mrl.data import downloads
from mrl.data.downloads import fetch
from mrl.data.registry import DATASETS, RemoteFile, Source
from mrl.errors import DataError

TRAIN, TEST = b"0 1 2\n1 0\n", b"0 3\n"


def sha(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def blob(body: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()


class Server:
    """Answers each path by the next of its behaviours, and for ever by the last; remembers what was asked."""

    def __init__(self):
        self.answers, self.asked = {}, []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                server.asked.append(self.path)
                behaviours = server.answers.get(self.path, [status(404)])
                behaviour = behaviours.pop(0) if len(behaviours) > 1 else behaviours[0]
                with suppress(OSError):  # the client gave up
                    behaviour(self)

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()


def body(content: bytes, *, claimed: int | None = None, wait: float = 0.0, drip: float = 0.0):
    """Serve `content`; claim another length, wait after the headers, or drip byte by byte."""

    def answer(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content) if claimed is None else claimed))
        handler.end_headers()
        time.sleep(wait)
        for piece in [content[i : i + 1] for i in range(len(content))] if drip else [content]:
            handler.wfile.write(piece)
            handler.wfile.flush()
            time.sleep(drip)

    return answer


def status(code: int):
    def answer(handler):
        handler.send_response(code)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


@pytest.fixture
def server(monkeypatch, tmp_path):
    """A mirror that has the data set `tool`, whole; the cache is empty, and no second source is asked."""
    server = Server()
    server.answers = {"/tool/train.txt": [body(TRAIN)], "/tool/test.txt": [body(TEST)]}
    files = (RemoteFile("train.txt", git_blob=blob(TRAIN)), RemoteFile("test.txt", sha256=sha(TEST)))
    monkeypatch.setitem(DATASETS, "tool", Source("", "http://nowhere.invalid", files, 4))
    monkeypatch.setenv("MRL_MIRROR", server.url)
    monkeypatch.setenv("MRL_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MRL_DATA", raising=False)
    monkeypatch.setattr(downloads, "PAUSE", 0.0)
    monkeypatch.setattr(downloads, "TIMEOUT", (0.5, 0.3))
    monkeypatch.setattr(downloads, "_out_of_reach", {})
    yield server
    server.http.shutdown()
    server.http.server_close()


def in_cache() -> dict[str, bytes]:
    folder = downloads.cache_folder() / "tool"
    return {path.name: path.read_bytes() for path in folder.glob("**/*") if path.is_file()}


def refusal() -> str:
    """Fetching fails on one line that has the manual way, and leaves no file under its name."""
    with pytest.raises(DataError) as caught:
        fetch("tool")
    message = str(caught.value)
    assert "\n" not in message
    assert f"put train.txt and test.txt into {downloads.cache_folder() / 'tool'}, or into $MRL_DATA/tool" in message
    assert in_cache() == {} and not (downloads.cache_folder() / "tool" / ".partial").exists()
    return message
