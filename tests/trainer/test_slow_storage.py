"""An S3 that is there and does not answer: connections that say nothing, or stop in the middle."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest

from tests.ports import HOST, free_port
from tests.trainer.conftest import Bucket
from tunesmith_trainer.storage import Storage, credentials

MEBIBYTE = 1 << 20


class Wire:
    """A way to a server on which the first answers stop, the connections staying open."""

    def __init__(self, target: int) -> None:
        self.port, self._target = free_port(), target
        self.stopping = 0
        """How many of the next connections stop."""
        self.lets_through = 0
        """Bytes of an answer that come before it stops."""
        self._listener = socket.create_server((HOST, self.port))
        self._open: list[socket.socket] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                limit = self.lets_through if self.stopping > 0 else None
                self.stopping -= 1
                server = socket.create_connection((HOST, self._target))
                self._open += [client, server]
                self._pass_on(client, server, None)
                self._pass_on(server, client, limit)

    def _pass_on(self, source: socket.socket, sink: socket.socket, limit: int | None) -> None:
        def run() -> None:
            passed = 0
            with suppress(OSError):
                while data := source.recv(1 << 16):
                    passed += len(data)
                    if limit is not None and passed > limit:
                        return
                    sink.sendall(data)
                sink.shutdown(socket.SHUT_WR)

        threading.Thread(target=run, daemon=True).start()

    def close(self) -> None:
        for one in (self._listener, *self._open):
            one.close()


@pytest.fixture
def wire(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> Iterator[Wire]:
    monkeypatch.setattr(credentials, "_SILENCE_SECONDS", 1)
    wire = Wire(bucket.server.port)
    yield wire
    wire.close()


def storage_over(wire: Wire, bucket: Bucket) -> Storage:
    far = bucket.connection.model_copy(update={"endpoint": f"http://{HOST}:{wire.port}"})
    return Storage.open(far, "output", patience=timedelta(seconds=200))


def test_a_server_that_says_nothing_is_asked_again(wire: Wire, bucket: Bucket) -> None:
    # More often than the client itself tries within one call.
    wire.stopping = 4
    storage_over(wire, bucket).put_bytes(bucket.uri("x"), b"1")
    assert bucket.get("x") == b"1"
    assert wire.stopping < 0


def test_an_answer_that_stops_in_the_middle_is_no_half_file(
    wire: Wire, bucket: Bucket, tmp_path: Path
) -> None:
    content = bytes(range(256)) * (3 * MEBIBYTE // 256)
    uri = bucket.put("data/rows.jsonl", content)
    storage = storage_over(wire, bucket)
    # The listing is one connection, which is kept for what follows.
    wire.stopping, wire.lets_through = 3, MEBIBYTE
    storage.download(uri, tmp_path / "rows.jsonl")
    assert (tmp_path / "rows.jsonl").read_bytes() == content
    assert wire.stopping < 0
