"""A throw-away S3 server (versitygw) for benchmarks, with keys in the environment."""

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from deploy.native.binaries import ensure_binaries

REGION = "us-east-1"


@contextlib.contextmanager
def s3_server() -> Iterator[str]:
    """Give the endpoint of a server that knows this process's keys and has the bucket bench."""
    keys = {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "benchsecret"}
    os.environ |= keys | {"AWS_EC2_METADATA_DISABLED": "true", "AWS_DEFAULT_REGION": REGION}
    binary = ensure_binaries(["versitygw"])["versitygw"]
    port = _free_port()
    endpoint = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "bench").mkdir()
        command = ["nice", "-n", "10", str(binary), "--quiet", "--port", f"127.0.0.1:{port}"]
        command += ["--access", keys["AWS_ACCESS_KEY_ID"]]
        command += ["--secret", keys["AWS_SECRET_ACCESS_KEY"], "posix", folder]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            _wait_until_answered(endpoint)
            yield endpoint
        finally:
            process.kill()
            process.wait()


@contextlib.contextmanager
def farther(endpoint: str, milliseconds: float) -> Iterator[str]:
    """Give an endpoint of the same server, with so many milliseconds to it and as many back."""
    port, target = _free_port(), endpoint.rpartition(":")[2]
    command = [sys.executable, "-m", "benchmarks.delay", str(port), target, str(milliseconds)]
    process = subprocess.Popen(command)
    try:
        _wait_until_answered(f"http://127.0.0.1:{port}")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _wait_until_answered(endpoint: str) -> None:
    for _ in range(200):
        try:
            urllib.request.urlopen(endpoint, timeout=1)
        except urllib.error.HTTPError:
            return  # refused, as it should be without keys
        except OSError:
            time.sleep(0.05)
    raise RuntimeError("versitygw does not answer")
