"""A real S3 server (versitygw), buckets in it, and runs that point to them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import boto3
import httpx
import pytest
from botocore.config import Config

from deploy.native.binaries import ensure_binaries
from tests.ports import free_port
from tunesmith_api.run import S3Connection, TrainingRun
from tunesmith_process.logs import configure_logs

ROOT_KEYS = ("testkey", "testsecret")
STRANGER_KEYS = ("stranger", "strangersecret")
REGION = "us-east-1"
_STARTING_SECONDS = 100


@dataclass
class S3Server:
    """A versitygw on a folder; can be stopped and started again on the same port."""

    binary: Path
    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None
    certificate: tuple[Path, Path] | None = None
    """Files of a certificate and its key, to speak TLS with."""

    @property
    def endpoint(self) -> str:
        return f"{'https' if self.certificate else 'http'}://127.0.0.1:{self.port}"

    def start(self) -> None:
        for name in ("data", "iam"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        options = ["--quiet", "--port", f"127.0.0.1:{self.port}"]
        options += ["--access", ROOT_KEYS[0], "--secret", ROOT_KEYS[1]]
        options += ["--iam-dir", str(self.folder / "iam")]
        if self.certificate:
            options += ["--cert", str(self.certificate[0]), "--key", str(self.certificate[1])]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [self.binary, *options, "posix", str(self.folder / "data")],
                stdout=log,
                stderr=log,
                env={"GOMAXPROCS": "2", "PATH": os.environ["PATH"]},
            )
        until = time.monotonic() + _STARTING_SECONDS
        while time.monotonic() < until and self.process.poll() is None:
            try:
                # Whether it is there; who it is, is the clients' to find out.
                httpx.get(self.endpoint, timeout=10, verify=False)
                return
            except httpx.HTTPError:
                time.sleep(0.02)
        raise RuntimeError((self.folder / "log").read_text())

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def add_user(self, access: str, secret: str) -> None:
        subprocess.run(
            [
                *[self.binary, "admin", "--access", ROOT_KEYS[0], "--secret", ROOT_KEYS[1]],
                *["--endpoint-url", self.endpoint, "create-user"],
                *["--access", access, "--secret", secret, "--role", "user"],
            ],
            check=True,
            capture_output=True,
        )


@cache
def make_client(endpoint: str, keys: tuple[str, str] = ROOT_KEYS) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name=REGION,
        aws_access_key_id=keys[0],
        aws_secret_access_key=keys[1],
        config=Config(s3={"addressing_style": "path"}),
    )


@dataclass
class Bucket:
    """A fresh bucket, and what a test needs to fill and to name it."""

    server: S3Server
    name: str
    client: Any
    credentials: Path
    """Folder as mounted in a pod: one folder a role, one file a key."""

    @property
    def connection(self) -> S3Connection:
        return S3Connection(
            endpoint=self.server.endpoint,
            region=REGION,
            path_style=True,
        )

    @property
    def connection_with_secret(self) -> S3Connection:
        named = {f"{role}_secret": "keys" for role in ("model", "dataset", "output")}
        return self.connection.model_copy(update=named)

    def uri(self, key: str = "") -> str:
        return f"s3://{self.name}/{key}"

    def put(self, key: str, data: bytes | str) -> str:
        body = data.encode() if isinstance(data, str) else data
        self.client.put_object(Bucket=self.name, Key=key, Body=body)
        return self.uri(key)

    def get(self, key: str) -> bytes:
        return self.client.get_object(Bucket=self.name, Key=key)["Body"].read()

    def keys(self, prefix: str = "") -> list[str]:
        found = self.client.list_objects_v2(Bucket=self.name, Prefix=prefix)
        return [item["Key"] for item in found.get("Contents", [])]


def write_credentials(root: Path, keys: tuple[str, str], roles: tuple[str, ...]) -> None:
    for role in roles:
        (root / role).mkdir(parents=True, exist_ok=True)
        (root / role / "AWS_ACCESS_KEY_ID").write_text(keys[0])
        (root / role / "AWS_SECRET_ACCESS_KEY").write_text(keys[1] + "\n")


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """The server that most tests share."""
    binary = ensure_binaries(["versitygw"])["versitygw"]
    server = S3Server(binary, tmp_path_factory.mktemp("s3"), free_port())
    server.start()
    server.add_user(*STRANGER_KEYS)
    yield server
    server.stop()


@pytest.fixture
def own_server(s3_server: S3Server, tmp_path: Path) -> Iterator[S3Server]:
    """A server for one test, which may stop it."""
    server = S3Server(s3_server.binary, tmp_path / "own-s3", free_port())
    server.start()
    yield server
    server.stop()


def new_bucket(server: S3Server, credentials: Path) -> Bucket:
    client = make_client(server.endpoint)
    name = f"t-{uuid.uuid4().hex[:12]}"
    client.create_bucket(Bucket=name)
    write_credentials(credentials, ROOT_KEYS, ("model", "dataset", "output"))
    return Bucket(server, name, client, credentials)


def use_identity(monkeypatch: pytest.MonkeyPatch, keys: tuple[str, str] | None) -> None:
    """Give the process an identity of its own, as a service account would, or none at all."""
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    if keys:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", keys[0])
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", keys[1])


@pytest.fixture
def bucket(s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """A bucket of its own for each test; the environment holds an identity that may use it."""
    use_identity(monkeypatch, ROOT_KEYS)
    return new_bucket(s3_server, tmp_path / "credentials")


@pytest.fixture
def make_run(bucket: Bucket) -> Callable[..., TrainingRun]:
    """Give runs in the stage prepare on the tiny model; keyword arguments replace sections."""

    def make(**sections: Any) -> TrainingRun:
        given = {
            "job": {"namespace": "default", "name": "demo", "uid": "u-1"},
            "stage": "prepare",
            "attempt": 1,
            "runUri": bucket.uri("runs/u-1/"),
            "s3": bucket.connection.model_dump(by_alias=True),
            "model": {"uri": "builtin://tiny"},
            "method": {"lora": {}},
            "dataset": {"train": {"uri": bucket.uri("data/train.jsonl")}},
            "hyperparameters": {"maxSequenceLength": 256},
            "checkpoint": {},
            "evaluation": {},
            "output": {"uri": bucket.uri("runs/")},
        }
        return TrainingRun.model_validate(given | sections)

    return make


def jsonl(*rows: object) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def pairs(count: int, start: int = 0) -> list[dict[str, str]]:
    return [
        {"prompt": f"What is {n} and one?", "response": f"It is {n + 1}."}
        for n in range(start, start + count)
    ]


@pytest.fixture(autouse=True, scope="session")
def _logs() -> None:
    configure_logs("INFO", sys.stdout)
