"""A ModelVersion that looks like the tuned one and talks nonsense, for a roll-out to refuse.

What went wrong with it happens: its words are not those of its tokenizer, as if it had been
packed with another model's. It loads, is as fast as ever and fails no request; only its answers
are bad. Called by ``rollout``.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from deploy.artifact import MANIFEST, upload
from deploy.gguf_rows import find_matrix, move_rows
from deploy.kubectl import Kubectl, Manifest
from deploy.shell import Log, StepError
from deploy.storage import BUCKET, DEMO_NAMESPACE, Storage

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

MODEL = "about-tunesmith"
SPOILED_MODEL = "about-tunesmith-spoiled"
EMBEDDING = "token_embd.weight"
# Special tokens and single bytes stay where they are, so that turns of a chat keep their marks.
FIRST_ROW = 17 + 256
ROWS = 1000


def find_tuned(kubectl: Kubectl) -> Manifest:
    """Return the newest ModelVersion of the demo. Raises ``StepError`` when there is none."""
    versions = [
        version
        for version in kubectl.list_all("modelversions", DEMO_NAMESPACE)
        if version["spec"]["model"] == MODEL
    ]
    if not versions:
        raise StepError(f"there is no ModelVersion of {MODEL} here", "make one with: make demo")
    return max(versions, key=lambda version: str(version["metadata"]["creationTimestamp"]))


def ensure_spoiled(kubectl: Kubectl, storage: Storage, tuned: Manifest, log: Log) -> str:
    """Make the spoiled twin of a ModelVersion unless it is there; return its name."""
    name = f"{tuned['metadata']['name']}-spoiled"
    if kubectl.get("modelversion", name, DEMO_NAMESPACE):
        log.say(f"modelversion/{name}: there already")
        return name
    source = gguf_artifact(tuned)
    prefix = f"models/{SPOILED_MODEL}/{tuned['metadata']['name']}/"
    with storage.client(log) as s3, tempfile.TemporaryDirectory(prefix="tunesmith-") as folder:
        file = _download(s3, _key(str(source["uri"])), Path(folder), log)
        move_rows(file, find_matrix(file, EMBEDDING), ROWS, FIRST_ROW)
        digest = upload(s3, prefix, [file], log)
        size = file.stat().st_size
    version = spoiled_version(name, tuned, f"s3://{BUCKET}/{prefix}", digest, size)
    kubectl.run("create", "-f", "-", stdin=json.dumps(version))
    return name


def spoiled_version(name: str, tuned: Manifest, uri: str, digest: str, size: int) -> Manifest:
    """Return the ModelVersion of a spoiled file, as one makes it by hand."""
    return {
        "apiVersion": "tunesmith.dev/v1alpha1",
        "kind": "ModelVersion",
        "metadata": {"name": name, "namespace": DEMO_NAMESPACE},
        "spec": {
            "model": SPOILED_MODEL,
            "version": tuned["spec"]["version"],
            "artifacts": [{"format": "GGUF", "uri": uri, "digest": digest, "sizeBytes": size}],
            "description": f"Made by the demo: its words are {ROWS} rows off in the embedding.",
        },
    }


def gguf_artifact(version: Manifest) -> Manifest:
    """Return the artifact that llama.cpp serves. Raises ``StepError`` when there is none."""
    for artifact in version["spec"]["artifacts"]:
        if artifact["format"] == "GGUF":
            return dict(artifact)
    raise StepError(
        f"ModelVersion {version['metadata']['name']} has no GGUF artifact",
        "add GGUF to output.artifacts of examples/finetunejob.yaml and run: make demo",
    )


def _download(s3: S3Client, prefix: str, folder: Path, log: Log) -> Path:
    """Fetch the one GGUF file that the artifact below ``prefix`` lists."""
    text = s3.get_object(Bucket=BUCKET, Key=prefix + MANIFEST)["Body"].read()
    names = [str(e["path"]) for e in json.loads(text)["files"] if e["path"].endswith(".gguf")]
    if len(names) != 1:
        raise StepError(f"s3://{BUCKET}/{prefix} holds {len(names)} GGUF files")
    log.say(f"s3://{BUCKET}/{prefix}{names[0]}: fetching")
    file = folder / Path(names[0]).name
    s3.download_file(BUCKET, prefix + names[0], str(file))
    return file


def _key(uri: str) -> str:
    """Return the key of a folder in the demo's bucket."""
    return uri.removeprefix(f"s3://{BUCKET}/").rstrip("/") + "/"
