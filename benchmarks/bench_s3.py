"""How fast the trainer moves objects, beside what most programs do with boto3.

``make bench-s3``. Many small objects: the trainer's storage against a loop of put_object and
get_object, over a wire with a round trip of 20 ms, as buckets are seldom on the same machine (on a
server without any, both only measure botocore's need of CPU). One large object: against the quicker
of boto3's own upload_file and download_file and of s3transfer on AWS's client in C (awscrt, in an
environment of its own, its start not counted). All by turns, the quietest of some rounds. Checks of
sizes and listings are the trainer's part of the bill, and are in its times. Prints a table; exits
with 1 when a target is missed.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

from benchmarks.peers import peer_python
from benchmarks.s3_server import REGION, farther, s3_server
from tunesmith_api.run import S3Connection
from tunesmith_trainer.storage import Storage

SMALL_BYTES = 4096
ONE_WAY_MS = 10.0
TARGET_SMALL = 3.0
TARGET_LARGE = 0.9
ROUNDS = 4

CRT = "awscrt==0.38.1"
# Prints the seconds that one transfer takes.
WITH_CRT = """
import sys, time
import botocore.session
from awscrt.auth import AwsCredentialsProvider
from botocore.config import Config
from s3transfer.crt import (
    BotocoreCRTCredentialsWrapper, BotocoreCRTRequestSerializer, CRTTransferManager,
    create_s3_crt_client,
)
endpoint, region, what, path, key = sys.argv[1:]
session = botocore.session.get_session()
keys = BotocoreCRTCredentialsWrapper(session.get_credentials()).to_crt_credentials_provider()
client = create_s3_crt_client(region, crt_credentials_provider=keys, use_ssl=False)
style = Config(s3={"addressing_style": "path"})
given = {"region_name": region, "endpoint_url": endpoint, "config": style}
with CRTTransferManager(client, BotocoreCRTRequestSerializer(session, given)) as manager:
    begin = time.perf_counter()
    if what == "upload":
        manager.upload(path, "bench", key).result()
    else:
        manager.download("bench", key, path).result()
    print(time.perf_counter() - begin)
"""

Timed = Callable[[], float]
Work = Callable[[], object]


def timed(work: Work) -> Timed:
    """Give what does the work and says how many seconds it took."""

    def run() -> float:
        started = time.perf_counter()
        work()
        return time.perf_counter() - started

    return run


def quickest(*runs: Timed) -> list[float]:
    """Give seconds of the quickest run of each, by turns."""
    times = [[run() for run in runs] for _ in range(ROUNDS)]
    return [min(each) for each in zip(*times, strict=True)]


def with_crt(endpoint: str, what: str, path: Path, key: str) -> Timed:
    """Give what moves one object with AWS's client in C, in a process of its own."""
    python = peer_python(CRT.replace("==", "-"), CRT, CRT)
    command = [str(python), "-c", WITH_CRT, endpoint, REGION, what, str(path), key]
    return lambda: float(subprocess.run(command, check=True, capture_output=True).stdout)


def small(storage: Storage, client: Any, folder: Path, count: int) -> list[list[float]]:
    """Measure many small objects: to S3 and back."""
    source, target = folder / "small", folder / "back"
    source.mkdir()
    for number in range(count):
        (source / f"{number:05d}.json").write_bytes(bytes([number % 251]) * SMALL_BYTES)
    paths = sorted(source.iterdir())

    def upload_all() -> None:
        storage.upload_all([(path, f"s3://bench/ours/{path.name}") for path in paths])

    def put_loop() -> None:
        for path in paths:
            client.put_object(Bucket="bench", Key=f"theirs/{path.name}", Body=path.read_bytes())

    def get_loop() -> None:
        for path in paths:
            answer = client.get_object(Bucket="bench", Key=f"theirs/{path.name}")
            (folder / path.name).write_bytes(answer["Body"].read())

    up = quickest(timed(upload_all), timed(put_loop))
    down = quickest(
        timed(lambda: storage.download_prefix("s3://bench/ours/", target)), timed(get_loop)
    )
    return [up, down]


def large(
    endpoint: str, storage: Storage, client: Any, folder: Path, mebibytes: int
) -> list[list[float]]:
    """Measure one large object: to S3 and back."""
    path, back = folder / "large", folder / "large-back"
    with path.open("wb") as file:
        for number in range(mebibytes):
            file.write(bytes([number % 251]) * (1 << 20))
    up = quickest(
        timed(lambda: storage.upload(path, "s3://bench/large-ours")),
        timed(lambda: client.upload_file(str(path), "bench", "large-theirs")),
        with_crt(endpoint, "upload", path, "large-crt"),
    )
    down = quickest(
        timed(lambda: storage.download("s3://bench/large-ours", back)),
        timed(lambda: client.download_file("bench", "large-theirs", str(back))),
        with_crt(endpoint, "download", back, "large-crt"),
    )
    return [up, down]


def clients(endpoint: str) -> tuple[Storage, Any]:
    """Give ours and theirs."""
    connection = S3Connection(endpoint=endpoint, region=REGION, path_style=True)
    style = Config(s3={"addressing_style": "path"})
    client = boto3.client("s3", endpoint_url=endpoint, region_name=REGION, config=style)
    return Storage.open(connection, "output"), client


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--objects", type=int, default=500)
    parser.add_argument("--mebibytes", type=int, default=512)
    given = parser.parse_args()
    with s3_server() as endpoint, tempfile.TemporaryDirectory() as folder:
        one = large(endpoint, *clients(endpoint), Path(folder), given.mebibytes)
        with farther(endpoint, ONE_WAY_MS) as far:
            many = small(*clients(far), Path(folder), given.objects)
    rows = [
        *zip(("small, upload", "small, download"), many, [TARGET_SMALL] * 2, strict=True),
        *zip(("large, upload", "large, download"), one, [TARGET_LARGE] * 2, strict=True),
    ]
    print(f"{given.objects} objects of {SMALL_BYTES} bytes; one of {given.mebibytes} MiB")
    print(f"{'':16} {'Tunesmith':>10} {'boto3':>10} {'awscrt':>10} {'times':>6} {'target':>7}")
    missed = False
    for name, (ours, *theirs), target in rows:
        times = min(theirs) / ours
        missed |= times < target
        peers = "".join(f" {seconds:8.2f} s" for seconds in theirs) + " " * 11 * (2 - len(theirs))
        print(f"{name:16} {ours:8.2f} s{peers} {times:6.2f} {target:7.1f}")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
