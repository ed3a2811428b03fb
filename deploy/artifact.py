"""Puts a model into the demo's bucket as the trainer would: files first, their manifest last.

For models that no job has made: ``spoiled``'s, and those of the stand-in.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from deploy.shell import Log
from deploy.storage import BUCKET

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

MANIFEST = "manifest.json"


def upload(s3: S3Client, prefix: str, files: list[Path], log: Log) -> str:
    """Send files and their manifest; return the digest that names them all."""
    for file in files:
        log.say(f"s3://{BUCKET}/{prefix}{file.name}: sending {file.stat().st_size / 1e6:.1f} MB")
        s3.upload_file(str(file), BUCKET, prefix + file.name)
    text = list_files(files)
    s3.put_object(Bucket=BUCKET, Key=prefix + MANIFEST, Body=text)
    return f"sha256:{hashlib.sha256(text).hexdigest()}"


def list_files(files: list[Path]) -> bytes:
    """Return the content of ``manifest.json``, as the fetcher of serving pods reads it."""
    entries = []
    for file in files:
        with file.open("rb") as content:
            sha256 = hashlib.file_digest(content, "sha256").hexdigest()
        size = file.stat().st_size
        entries.append({"path": file.name, "sha256": f"sha256:{sha256}", "sizeBytes": size})
    return json.dumps({"version": 1, "attempt": 1, "files": entries}).encode()
