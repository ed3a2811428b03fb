"""Users of the demo's S3 server, each with a Secret: one may read and write nowhere."""

import base64
import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager

from deploy.kubectl import secret
from deploy.storage import BUCKET
from deploy.storage import NAMESPACE as S3_NAMESPACE
from tests.e2e.lab import Lab


def make_keys(lab: Lab, namespace: str, name: str, access: str, key: str) -> None:
    values = {"AWS_ACCESS_KEY_ID": access, "AWS_SECRET_ACCESS_KEY": key}
    lab.kubectl.apply(secret(name, namespace, values))


@contextmanager
def reading_user(lab: Lab, namespace: str, name: str) -> Iterator[None]:
    """Put the keys of a user who may read the bucket into the Secret ``name``."""
    user, key = f"reader-{secrets.token_hex(4)}", secrets.token_urlsafe(16)
    make_keys(lab, namespace, name, user, key)
    _manage(lab, "create-user", "--access", user, "--secret", key, "--role", "user")
    with lab.storage.client(lab.log) as s3:
        s3.put_bucket_policy(Bucket=BUCKET, Policy=json.dumps(_reads_only(user)))
        try:
            yield
        finally:
            s3.delete_bucket_policy(Bucket=BUCKET)
            _manage(lab, "delete-user", "--access", user)


def _manage(lab: Lab, *command: str) -> None:
    """Run the server's own tool in its pod, as its root."""
    root = lab.kubectl.get("secret", "root", S3_NAMESPACE)
    assert root is not None
    access, key = (
        base64.b64decode(root["data"][name]).decode()
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    )
    as_root = ("--access", access, "--secret", key, "--endpoint-url", "http://127.0.0.1:9000")
    tool = ("exec", "-n", S3_NAMESPACE, "deploy/s3", "--", "/versitygw", "admin")
    lab.kubectl.run(*tool, *as_root, *command)


def _reads_only(user: str) -> dict[str, object]:
    return {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Principal": {"AWS": [user]},
                "Action": ["s3:GetObject", "s3:ListBucket"],
                "Resource": [f"arn:aws:s3:::{BUCKET}", f"arn:aws:s3:::{BUCKET}/*"],
            }
        ],
    }
