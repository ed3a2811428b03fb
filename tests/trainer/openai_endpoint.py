"""A real HTTP server with as much of OpenAI's API as generators and judges are asked for."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


@dataclass(frozen=True)
class Reply:
    """An answer as it goes over the line."""

    body: bytes
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Asked:
    """A request as it came."""

    path: str
    body: dict[str, Any]
    authorization: str


class Endpoint:
    """Gives ``replies`` in turn: a text is a model's answer, a number a status."""

    def __init__(self, replies: Iterator[str | int | Reply]) -> None:
        self.asked: list[Asked] = []
        lock, outer = threading.Lock(), self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                key = self.headers.get("Authorization", "")
                with lock:
                    outer.asked.append(Asked(self.path, body, key))
                    reply = as_reply(next(replies))
                self.send_response(reply.status)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(reply.body)))
                self.end_headers()
                self.wfile.write(reply.body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def as_reply(reply: str | int | Reply) -> Reply:
    if isinstance(reply, Reply):
        return reply
    if isinstance(reply, int):
        return Reply(b"{}", reply)
    return Reply(json.dumps({"choices": [{"message": {"content": reply}}]}).encode())
