"""How fast the trainer moves objects, beside what most programs do with boto3.

``make bench-s3``. Many small objects: the trainer's storage against a loop of put_object and
get_object, over a wire with a round trip of 20 ms, as buckets are seldom on the same machine (on a
server without any, both only measure botocore's need of CPU). One large object: against boto3's own
upload_file and download_file, with awscrt where that is installed. Both by turns, the quietest of
some rounds. Checks of sizes and listings are the trainer's part of the bill, and are in its times.
Prints a table; exits with 1 when a target is missed.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

from benchmarks.s3_server import REGION, farther, s3_server
from tunesmith_api.run import S3Connection
from tunesmith_trainer.storage import Storage

SMALL_BYTES = 4096
ONE_WAY_MS = 10.0
TARGET_SMALL = 3.0
TARGET_LARGE = 0.9
ROUNDS = 4

Work = Callable[[], object]


def quickest(ours: Work, theirs: Work) -> tuple[float, float]:
    """Give seconds of the quickest run of each, by turns."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS):
        for kept, work in zip(times, (ours, theirs), strict=True):
            started = time.perf_counter()
            work()
            kept.append(time.perf_counter() - started)
    return min(times[0]), min(times[1])


def small(storage: Storage, client: Any, folder: Path, count: int) -> list[tuple[float, float]]:
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

    up = quickest(upload_all, put_loop)
    down = quickest(lambda: storage.download_prefix("s3://bench/ours/", target), get_loop)
    return [up, down]


def large(storage: Storage, client: Any, folder: Path, mebibytes: int) -> list[tuple[float, float]]:
    """Measure one large object: to S3 and back."""
    path, back = folder / "large", folder / "large-back"
    with path.open("wb") as file:
        for number in range(mebibytes):
            file.write(bytes([number % 251]) * (1 << 20))
    up = quickest(
        lambda: storage.upload(path, "s3://bench/large-ours"),
        lambda: client.upload_file(str(path), "bench", "large-theirs"),
    )
    down = quickest(
        lambda: storage.download("s3://bench/large-ours", back),
        lambda: client.download_file("bench", "large-theirs", str(back)),
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
        one = large(*clients(endpoint), Path(folder), given.mebibytes)
        with farther(endpoint, ONE_WAY_MS) as far:
            many = small(*clients(far), Path(folder), given.objects)
    rows = [
        *zip(("small, upload", "small, download"), many, [TARGET_SMALL] * 2, strict=True),
        *zip(("large, upload", "large, download"), one, [TARGET_LARGE] * 2, strict=True),
    ]
    print(f"{given.objects} objects of {SMALL_BYTES} bytes; one of {given.mebibytes} MiB")
    print(f"{'':16} {'Tunesmith':>10} {'boto3':>10} {'times':>6} {'target':>7}")
    missed = False
    for name, (ours, theirs), target in rows:
        times = theirs / ours
        missed |= times < target
        print(f"{name:16} {ours:8.2f} s {theirs:8.2f} s {times:6.2f} {target:7.1f}")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
