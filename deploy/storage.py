"""Brings up the S3 server and fills its bucket with the base model and the example data.

Objects that are there with the same size and time of change are not sent again. The credentials
are made up once for each cluster and live only in its Secrets.
"""

from __future__ import annotations

import base64
import contextlib
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

from deploy.cluster import Cluster
from deploy.kubectl import Kubectl, manifest, secret
from deploy.settings import REPOSITORY
from deploy.shell import Log, StepError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

NAMESPACE = "s3"
DEMO_NAMESPACE = "tunesmith-demo"
ENDPOINT = "http://s3.s3.svc.cluster.local:9000"
BUCKET = "tunesmith"
CREDENTIALS = "s3-credentials"
MODEL_PREFIX = "base/SmolLM2-135M-Instruct"
REGION = "us-east-1"


class Storage:
    """The demo's S3 server in one cluster."""

    def __init__(self, cluster: Cluster) -> None:
        """Describe it; nothing is started."""
        self._cluster = cluster

    def start(self, log: Log) -> None:
        """Start the server, make its bucket, and give the demo's namespace the credentials."""
        kubectl = Kubectl(self._cluster, log)
        kubectl.apply(manifest("namespaces.yaml"))
        keys = self._keys(kubectl)
        if not keys:
            keys = {
                "AWS_ACCESS_KEY_ID": "tunesmith" + secrets.token_hex(4),
                "AWS_SECRET_ACCESS_KEY": secrets.token_urlsafe(24),
            }
            kubectl.apply(secret("root", NAMESPACE, keys))
        kubectl.apply(secret(CREDENTIALS, DEMO_NAMESPACE, keys))
        kubectl.apply(manifest("s3.yaml"), IMAGE=self._cluster.storage_image())
        kubectl.wait_for_rollout("s3", NAMESPACE, seconds=120)
        with self.client(log) as s3:
            if BUCKET not in {bucket["Name"] for bucket in s3.list_buckets()["Buckets"]}:
                s3.create_bucket(Bucket=BUCKET)

    def upload_model(self, folder: Path, log: Log) -> None:
        """Send the converted base model."""
        with self.client(log) as s3:
            for file in sorted(folder.iterdir()):
                _send(s3, file, f"{MODEL_PREFIX}/{file.name}", log)

    def upload_examples(self, log: Log) -> None:
        """Send the example data."""
        folder = REPOSITORY / "examples" / "data"
        files = sorted(folder.glob("*.jsonl"))
        if not files:
            raise StepError(f"no example data in {folder}")
        with self.client(log) as s3:
            for file in files:
                _send(s3, file, f"data/{file.name}", log)

    def read(self, key: str, log: Log) -> bytes | None:
        """Return an object of the bucket, or nothing when there is none."""
        with self.client(log) as s3:
            try:
                return bytes(s3.get_object(Bucket=BUCKET, Key=key)["Body"].read())
            except s3.exceptions.NoSuchKey:
                return None

    @contextlib.contextmanager
    def client(self, log: Log) -> Iterator[S3Client]:
        """Yield an S3 client that reaches the server from this machine."""
        kubectl = Kubectl(self._cluster, log)
        keys = self._keys(kubectl)
        with kubectl.forwarded("s3", NAMESPACE, 9000) as port:
            yield boto3.client(
                "s3",
                endpoint_url=f"http://127.0.0.1:{port}",
                region_name=REGION,
                aws_access_key_id=keys["AWS_ACCESS_KEY_ID"],
                aws_secret_access_key=keys["AWS_SECRET_ACCESS_KEY"],
                config=Config(s3={"addressing_style": "path"}, proxies={}),
            )

    def _keys(self, kubectl: Kubectl) -> dict[str, str]:
        found = kubectl.get("secret", "root", NAMESPACE)
        data = found["data"] if found else {}
        return {name: base64.b64decode(value).decode() for name, value in data.items()}


def _send(s3: S3Client, file: Path, key: str, log: Log) -> None:
    """Upload a file unless an object of its size and time of change is there."""
    stat = file.stat()
    mark = f"{stat.st_size}-{stat.st_mtime_ns}"
    with contextlib.suppress(ClientError):
        if s3.head_object(Bucket=BUCKET, Key=key)["Metadata"].get("source") == mark:
            log.say(f"s3://{BUCKET}/{key}: there already")
            return
    log.say(f"s3://{BUCKET}/{key}: sending {stat.st_size / 1e6:.1f} MB")
    s3.upload_file(str(file), BUCKET, key, ExtraArgs={"Metadata": {"source": mark}})
