"""A stand-in for the Hugging Face hub on the loopback: what uploading and downloading a model ask of it.

Repositories are lists of commits; large files (those of `LARGE`) go by git LFS, as there. Writing, and reading what is
private, needs `TOKEN`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import yaml

TOKEN = "hf_of_a_test"
LARGE = (".safetensors", ".parquet")
MODEL = r"/api/models/([\w.-]+/[\w.-]+)"


@dataclass
class Repo:
    private: bool
    commits: list[tuple[str, dict[str, bytes]]] = field(default_factory=list)

    def commit(self, files: dict[str, bytes]) -> str:
        names = "\n".join(f"{name} {hashlib.sha1(files[name]).hexdigest()}" for name in sorted(files))
        sha = hashlib.sha1(f"{len(self.commits)}\n{names}".encode()).hexdigest()
        self.commits.append((sha, files))
        return sha

    def at(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        if revision == "main":
            return self.commits[-1]
        return next((commit for commit in self.commits if commit[0] == revision), None)


class Refused(Exception):
    def __init__(self, code: int, kind: str = ""):
        self.code, self.kind = code, kind


class Hub:
    """repos: by name. asked: (method, path) of each request. down: a status that everything gets, or 0."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.large: dict[str, bytes] = {}
        self.asked: list[tuple[str, str]] = []
        self.down = 0
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                path = unquote(urlsplit(self.path).path)
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                hub.asked.append((self.command, path))
                is_known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
                try:
                    if hub.down:
                        raise Refused(hub.down)
                    code, headers, content = hub.answer(self.command, path, body, is_known)
                except Refused as refusal:
                    code, headers, content = refusal.code, {"X-Error-Code": refusal.kind} if refusal.kind else {}, b"{}"
                self.send_response(code)
                for name, value in ({"Content-Length": str(len(content))} | headers).items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            do_GET = do_HEAD = do_POST = do_PUT = answer

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()

    def files(self, repo: str) -> dict[str, bytes]:
        return self.repos[repo].commits[-1][1]

    def find(self, name: str, is_known: bool) -> Repo:
        """As the hub does: what is private is not there for others."""
        repo = self.repos.get(name)
        if repo is None or (repo.private and not is_known):
            raise Refused(404 if is_known else 401, "RepoNotFound")
        return repo

    def answer(self, method: str, path: str, body: bytes, is_known: bool) -> tuple[int, dict, bytes]:
        for wanted, pattern, action in (
            ("POST", r"/api/repos/create", self.create),
            ("POST", r"/api/validate-yaml", self.validate),
            ("POST", rf"{MODEL}/preupload/main", self.preupload),
            ("POST", r"/([\w.-]+/[\w.-]+)\.git/info/lfs/objects/batch", self.batch),
            ("PUT", r"/lfs/(\w+)", self.put),
            ("POST", rf"{MODEL}/commit/main", self.commit),
            ("GET", rf"{MODEL}(?:/revision/(.+))?", self.info),
            ("GET", rf"{MODEL}/tree/(.+)", self.tree),
            ("GET", r"/([\w.-]+/[\w.-]+)/resolve/([^/]+)/(.+)", self.resolve),
            ("HEAD", r"/([\w.-]+/[\w.-]+)/resolve/([^/]+)/(.+)", self.resolve),
        ):
            if method == wanted and (match := re.fullmatch(pattern, path)):
                if method == "POST" and not is_known and action != self.validate:
                    raise Refused(401)
                if action in (self.create, self.validate, self.put):
                    answer = action(body, *match.groups())
                else:
                    answer = action(self.find(match[1], is_known), body, *match.groups()[1:])
                return answer if isinstance(answer, tuple) else (200, {}, json.dumps(answer).encode())
        raise Refused(404)

    def create(self, body: bytes) -> dict | tuple:
        asked = json.loads(body)
        name = f"{asked['organization']}/{asked['name']}"
        if name in self.repos:
            return 409, {}, json.dumps({"url": f"{self.url}/{name}"}).encode()
        self.repos[name] = Repo(asked.get("visibility") == "private")
        self.repos[name].commit({".gitattributes": b""})
        return {"url": f"{self.url}/{name}"}

    def validate(self, body: bytes) -> dict | tuple:
        try:
            match = re.match(r"---\n(.*?)\n---\n", json.loads(body)["content"], re.S)
            assert isinstance(yaml.safe_load(match[1]), dict)
        except (TypeError, AssertionError, yaml.YAMLError) as error:
            return 400, {}, json.dumps({"errors": [{"message": str(error)}], "warnings": []}).encode()
        return {"errors": [], "warnings": []}

    def preupload(self, repo: Repo, body: bytes) -> dict:
        paths = [file["path"] for file in json.loads(body)["files"]]
        modes = {path: "lfs" if path.endswith(LARGE) else "regular" for path in paths}
        return {"files": [{"path": path, "uploadMode": modes[path], "shouldIgnore": False} for path in paths]}

    def batch(self, repo: Repo, body: bytes) -> dict:
        asked = json.loads(body)["objects"]
        actions = {each["oid"]: {"upload": {"href": f"{self.url}/lfs/{each['oid']}"}} for each in asked}
        return {"transfer": "basic", "objects": [each | {"actions": actions[each["oid"]]} for each in asked]}

    def put(self, body: bytes, oid: str) -> dict:
        if hashlib.sha256(body).hexdigest() != oid:
            raise Refused(400)
        self.large[oid] = body
        return {}

    def commit(self, repo: Repo, body: bytes) -> dict:
        files = dict(repo.commits[-1][1])
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.large[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        sha = repo.commit(files)
        return {"commitUrl": f"{self.url}/org/name/commit/{sha}", "commitOid": sha}

    def at(self, repo: Repo, revision: str | None) -> tuple[str, dict[str, bytes]]:
        if (commit := repo.at(revision or "main")) is None:
            raise Refused(404, "RevisionNotFound")
        return commit

    def info(self, repo: Repo, body: bytes, revision: str | None) -> dict:
        sha, files = self.at(repo, revision)
        return {"id": "org/name", "sha": sha, "siblings": [{"rfilename": name} for name in sorted(files)]}

    def tree(self, repo: Repo, body: bytes, revision: str) -> tuple:
        _, files = self.at(repo, revision)
        entries = []
        for name, content in sorted(files.items()):
            entry = {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
            if name.endswith(LARGE):
                sha = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"oid": sha, "size": len(content), "pointerSize": 134}
            entries.append(entry)
        return 200, {}, json.dumps(entries).encode()

    def resolve(self, repo: Repo, body: bytes, revision: str, name: str) -> tuple:
        sha, files = self.at(repo, revision)
        if name not in files:
            raise Refused(404, "EntryNotFound")
        etag = hashlib.sha256(files[name]).hexdigest()
        return 200, {"ETag": f'"{etag}"', "X-Repo-Commit": sha}, files[name]
