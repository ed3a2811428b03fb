"""Wrong input, all at once: each job must end with the condition that says what to change."""

import json
from typing import Any

import pytest

from deploy.storage import BUCKET
from tests.e2e.lab import Lab
from tests.e2e.s3_users import make_keys, reading_user

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1500)]

FILES = {
    "empty.jsonl": "",
    "malformed.jsonl": '{"prompt": "a", "response": "b"}\n{"prompt": "broken\n',
    "columns.jsonl": '{"question": "a", "answer": "b"}\n',
    "long.jsonl": "".join(
        json.dumps({"prompt": f"question {i}", "response": "word " * 400}) + "\n" for i in range(20)
    ),
    "silent.jsonl": '{"prompt": "a", "response": ""}\n',
    "unanswered.jsonl": "".join(
        json.dumps({"messages": [{"role": "user", "content": text}]}) + "\n" for text in "ab"
    ),
}


def data(name: str, **more: Any) -> dict[str, Any]:
    return {"dataset": {"train": {"uri": f"s3://{BUCKET}/bad/{name}"}, **more}}


CASES: dict[str, tuple[dict[str, Any], str, str]] = {
    "no-bucket": (
        {"dataset": {"train": {"uri": "s3://no-such-bucket/x.jsonl"}}},
        "BucketNotFound",
        "no-such-bucket",
    ),
    "no-key": (data("missing.jsonl"), "DatasetNotFound", "missing.jsonl"),
    "empty": (data("empty.jsonl"), "DatasetEmpty", "No conversations to train on"),
    "malformed": (data("malformed.jsonl"), "DatasetMalformed", "line 2"),
    "columns": (data("columns.jsonl"), "WrongColumns", "question"),
    "long": (data("long.jsonl"), "SequenceTooLong", "maxSequenceLength"),
    "silent": (data("silent.jsonl"), "DatasetMalformed", "line 1"),
    "unanswered": (data("unanswered.jsonl"), "NothingToTrainOn", "answers of the assistant"),
    "few": (
        {"dataset": {"checks": {"minRows": 1000}}},
        "DatasetTooSmall",
        "1000",
    ),
    "no-model": (
        {"model": {"uri": f"s3://{BUCKET}/base/none/"}},
        "ModelNotFound",
        "base/none",
    ),
    "no-secret": ({"s3": {"secretRef": {"name": "nowhere"}}}, "CredentialsMissing", "nowhere"),
    "wrong-secret": ({"s3": {"secretRef": {"name": "wrong"}}}, "AccessDenied", BUCKET),
    "read-only": ({"s3": {"secretRef": {"name": "reader"}}}, "OutputNotWritable", f"{BUCKET}/e2e"),
}


@pytest.fixture(scope="module")
def ended(lab: Lab) -> dict[str, Any]:
    """Submit all wrong jobs side by side and wait until each has ended."""
    namespace = "e2e-bad-input"
    lab.kubectl.run("delete", "namespace", namespace, "--ignore-not-found", "--wait")
    lab.make_namespace(namespace)
    make_keys(lab, namespace, "wrong", "nobody", "nothing")
    with lab.storage.client(lab.log) as s3:
        for name, text in FILES.items():
            s3.put_object(Bucket=BUCKET, Key=f"bad/{name}", Body=text.encode())
    with reading_user(lab, namespace, "reader"):
        for name, (spec, _, _) in CASES.items():
            lab.submit(namespace, name, **spec)
        failed = {name: lab.wait_for(namespace, name, "Failed", seconds=400) for name in CASES}
    for name in CASES:
        lab.wait_for_event(namespace, name, "Failed")
    counters = {name: lab.status(namespace, name).counters for name in CASES}
    lab.kubectl.run("delete", "namespace", namespace, "--wait=false")
    return {"failed": failed, "counters": counters}


@pytest.mark.usefixtures("missing_image")
@pytest.mark.parametrize("name", CASES)
def test_wrong_input_ends_with_a_telling_condition(ended: dict[str, Any], name: str) -> None:
    _, reason, words = CASES[name]
    assert ended["failed"][name].reason == reason
    assert words in ended["failed"][name].message
    assert ended["counters"][name].attempts == 1, "a repeat would end the same way"
