"""Objects that the API server takes, and changes to them that it takes or refuses."""

import copy
from typing import Any

JOB: dict[str, Any] = {
    "apiVersion": "tunesmith.dev/v1alpha1",
    "kind": "FineTuneJob",
    "metadata": {"name": "rules", "namespace": "default"},
    "spec": {
        "model": {"uri": "hf://org/model"},
        "dataset": {"train": {"uri": "s3://acme/tickets.jsonl"}},
        "output": {"uri": "s3://acme/models/support/"},
    },
}
VERSION: dict[str, Any] = {
    "apiVersion": "tunesmith.dev/v1alpha1",
    "kind": "ModelVersion",
    "metadata": {"name": "support-v1", "namespace": "default"},
    "spec": {
        "model": "support",
        "version": "1",
        "artifacts": [
            {
                "format": "Merged",
                "uri": "s3://acme/m/",
                "digest": "sha256:" + "a" * 64,
                "sizeBytes": 1,
            }
        ],
    },
}
GATE = {"metric": "heldout/loss", "relation": "AtMost", "value": "1.5"}


def changed(base: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    """Give a copy of ``base`` with the field at the dotted ``path`` set, or removed for None."""
    result = copy.deepcopy(base)
    *parents, last = path.split(".")
    place = result
    for parent in parents:
        place = place.setdefault(parent, {})
    if value is None:
        place.pop(last)
    else:
        place[last] = value
    return result


TRAIN = {"uri": "s3://acme/tickets.jsonl"}

PARTS = {"gpusPerNode": 2, "sharding": "FSDP"}

DPO = {
    "objective": "DPO",
    "dpo": {"beta": "0.3", "loss": "Robust", "labelSmoothing": "0.1", "sftWeight": "1"},
}

JUDGE = {"url": "http://judge:8000/v1", "model": "m"}
ITEMS = [{"prompt": "p", "answer": "a"}]
METADATA = "http://169.254.169.254/v1"
ABOVE = "s3://acme/a/../b"


def synthetic(**generator: str) -> dict[str, Any]:
    return {"generator": generator, "prompts": ["More."]}


def suite(kind: str, **more: Any) -> list[dict[str, Any]]:
    return [{"name": "heldout", kind: {**(JUDGE if kind == "judge" else {}), **more}}]
