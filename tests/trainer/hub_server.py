"""As much of the Hugging Face Hub's API as a push needs, for the real huggingface_hub client.

Every file is a regular one here; the Hub itself takes large ones through another storage.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKENS = {"hf_writer": "write", "hf_reader": "read"}


def git_oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass
class Repository:
    private: bool
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
        name = "/".join(path.split("/")[3:5])
        found = self.server.repositories.get(name)
        if found is None:
            self.say(404, {"error": "Repository not found"}, code="RepoNotFound")
        elif path.endswith("/auth-check/write"):
            allowed = role == "write"
            self.say(200 if allowed else 403, {} if allowed else {"error": "Forbidden"})
        else:
            listed = [{"rfilename": name, "size": size} for name, size in found.claimed.items()]
            self.say(200, {"id": name, "sha": found.commits[-1], "siblings": listed, "tags": []})
        return None

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

    def say(self, status: int, content: dict[str, Any], code: str = "") -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if code:
            self.send_header("X-Error-Code", code)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass
