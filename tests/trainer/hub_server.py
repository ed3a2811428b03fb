"""As much of the Hugging Face Hub's API as pushes and downloads need, for its real client.

Pushed files are all regular ones here; the Hub itself takes large ones through another storage.
Weights are given as the Hub does: by a redirect to another address, with their sha256.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

LARGE = ".safetensors"
TOKENS = {"hf_writer": "write", "hf_reader": "read"}


def git_oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def parted(path: str) -> tuple[str, str]:
    """Part models/ORGANIZATION/NAME/REST into the key of the repository and the rest."""
    kind, organization, name, *rest = path.split("/", 3)
    key = f"{organization}/{name}"
    return f"datasets/{key}" if kind == "datasets" else key, "".join(rest)


def entry(path: str, data: bytes) -> dict[str, Any]:
    """Describe a file in the listing of a commit."""
    about = {"type": "file", "path": path, "size": len(data), "oid": git_oid(data)}
    if path.endswith(LARGE):
        digest = hashlib.sha256(data).hexdigest()
        about["lfs"] = {"oid": digest, "size": len(data), "pointerSize": 130}
    return about


@dataclass
class Repository:
    private: bool = False
    files: dict[str, bytes] = field(default_factory=dict)
    commits: list[str] = field(default_factory=lambda: ["0" * 40])
    messages: list[str] = field(default_factory=list)
    claimed: dict[str, int] = field(default_factory=dict)
    """Sizes of files that are listed and cannot be fetched."""


class Hub(ThreadingHTTPServer):
    """A Hub whose only owner is acme."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, Repository] = {}
        """By ORGANIZATION/NAME; data sets by datasets/ORGANIZATION/NAME."""
        self.given: list[str] = []
        """Paths of the files whose content was asked for."""
        self.is_away = False
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        role, path = self.role(), self.path.partition("?")[0]
        if self.server.is_away:
            return self.say(503, {"error": "away"})
        if path == "/api/whoami-v2":
            return self.say(200, {"name": "acme"}) if role else self.say(401, {"error": "Invalid"})
        if not path.startswith("/api/"):
            return self.give(path)
        if path.count("/") < 4:
            # Of what the client asks besides, it can do without all.
            return self.say(404, {"error": "Not found"})
        name, rest = parted(path.removeprefix("/api/"))
        found = self.server.repositories.get(name)
        revision = rest.partition("/")[2]
        if found is None or (found.private and not role):
            self.say(404, {"error": "Repository not found"}, code="RepoNotFound")
        elif rest == "auth-check/write":
            allowed = role == "write"
            self.say(200 if allowed else 403, {} if allowed else {"error": "Forbidden"})
        elif revision and revision not in ("main", *found.commits):
            self.say(404, {"error": "Invalid rev id"}, code="RevisionNotFound")
        elif rest.startswith("tree/"):
            self.say(200, [entry(path, data) for path, data in found.files.items()])
        else:
            sizes = {path: len(data) for path, data in found.files.items()} | found.claimed
            siblings = [{"rfilename": path, "size": size} for path, size in sizes.items()]
            about = {"id": name.removeprefix("datasets/"), "sha": found.commits[-1]}
            self.say(200, {**about, "siblings": siblings, "tags": [], "private": found.private})
        return None

    def do_HEAD(self) -> None:
        self.give(self.path.partition("?")[0])

    def give(self, path: str) -> None:
        """Give a file: NAME/resolve/COMMIT/PATH, or of a large one the address of its content."""
        name, _, rest = path.strip("/").removeprefix("cdn/").partition("/resolve/")
        commit, _, file = rest.partition("/")
        found = self.server.repositories.get(name)
        if found is None or file not in found.files:
            return self.say(404, {"error": "Entry not found"}, code="EntryNotFound")
        if found.private and not self.role() and not path.startswith("/cdn/"):
            return self.say(401, {"error": "Invalid"}, code="RepoNotFound")
        data = found.files[file]
        headers = {"X-Repo-Commit": commit, "ETag": f'"{git_oid(data)}"'}
        if file.endswith(LARGE) and not path.startswith("/cdn/"):
            headers |= {
                "Location": f"{self.server.url}/cdn{path}",
                "X-Linked-Etag": f'"{hashlib.sha256(data).hexdigest()}"',
                "X-Linked-Size": str(len(data)),
            }
            return self.write(302, b"", headers)
        if self.command == "GET":
            self.server.given.append(file)
        return self.write(200, data, headers)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        path = self.path.partition("?")[0]
        if path == "/api/validate-yaml":
            return self.say(200, {"errors": [], "warnings": []})
        if self.role() != "write":
            return self.say(403, {"error": "You need write access"})
        if path == "/api/repos/create":
            return self.create(json.loads(body))
        name = "/".join(path.split("/")[3:5])
        repository = self.server.repositories[name]
        if "/preupload/" in path:
            return self.preupload(repository, json.loads(body))
        return self.commit(name, repository, [json.loads(line) for line in body.splitlines()])

    def create(self, asked: dict[str, Any]) -> None:
        name = f"{asked['organization']}/{asked['name']}"
        if asked["organization"] != "acme":
            return self.say(403, {"error": "You don't have the rights to create a model there"})
        exists = name in self.server.repositories
        if not exists:
            self.server.repositories[name] = Repository(asked.get("visibility") == "private")
        return self.say(409 if exists else 200, {"url": f"{self.server.url}/{name}"})

    def preupload(self, repository: Repository, asked: dict[str, Any]) -> None:
        files = []
        for file in asked["files"]:
            data = repository.files.get(file["path"])
            oid = None if data is None else git_oid(data)
            given = {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
            files.append(given | {"oid": oid})
        self.say(200, {"files": files})

    def commit(self, name: str, repository: Repository, lines: list[dict[str, Any]]) -> None:
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                repository.messages.append(value["summary"])
            else:
                assert (line["key"], value["encoding"]) == ("file", "base64")
                repository.files[value["path"]] = base64.b64decode(value["content"])
        repository.commits.append(f"{len(repository.commits):040x}")
        oid = repository.commits[-1]
        url = f"{self.server.url}/{name}/commit/{oid}"
        self.say(200, {"success": True, "commitOid": oid, "commitUrl": url})

    def role(self) -> str | None:
        return TOKENS.get(self.headers.get("Authorization", "").removeprefix("Bearer "))

    def say(self, status: int, content: Any, code: str = "") -> None:
        headers = {"Content-Type": "application/json"} | ({"X-Error-Code": code} if code else {})
        self.write(status, json.dumps(content).encode(), headers)

    def write(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass
