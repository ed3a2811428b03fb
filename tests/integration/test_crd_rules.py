"""Every rule of the CRDs against the real API server: what it takes, what it refuses, and why."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from deploy.native.apiserver import ControlPlane
from deploy.shell import StepError
from tests.integration.calls import try_to_create

pytestmark = pytest.mark.integration

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.yaml"))

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


FULL_EVALUATION = {
    "suites": [
        {"name": "ask", "prompts": {"uri": "s3://acme/q.jsonl", "metrics": ["exact", "rougeL"]}},
        {"name": "rows", "prompts": {}},
        {"name": "intents", "intent": {"items": [{"prompt": "p", "answer": '{"intent": "x"}'}]}},
        {
            "name": "judge",
            "judge": {"url": "http://judge:8000/v1", "model": "m", "secretRef": {"name": "key"}},
        },
        {"name": "tasks", "lmEval": {"tasks": ["hellaswag"], "limit": 100}},
        {
            "name": "own-tasks",
            "lmEval": {"tasks": ["ours"], "taskFiles": {"uri": "s3://acme/tasks/"}},
        },
        {"name": "speed", "speed": {}},
    ],
    "baselines": ["Base", "Previous"],
    "gates": [
        {
            "metric": "ask/rougeL",
            "relation": "HigherBy",
            "value": "0",
            "comparedWith": "Previous",
            "confidence": "Interval",
        },
        {"metric": "judge/quality", "relation": "AtLeast", "value": "3"},
    ],
}
ASK = {"name": "ask", "prompts": {"items": [{"prompt": "p", "answer": "a"}]}}
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


ACCEPTED = [
    pytest.param("spec.suspend", False, id="the minimal job"),
    pytest.param("spec.method", {"qlora": {"rank": 8}}, id="QLoRA with a rank"),
    pytest.param("spec.method", {"full": {}}, id="full training"),
    pytest.param("spec.model.uri", "builtin://tiny", id="the built-in model"),
    pytest.param("spec.model.uri", "pvc://models/llama", id="a model on a claim"),
    pytest.param("spec.model.uri", "pvc://a/", id="a model that is all of a claim"),
    pytest.param("spec.model.uri", "s3://acme", id="a model that is all of a bucket"),
    pytest.param(
        "spec.dataset.train.uri", f"pvc://{'a' * 60}.b/rows.jsonl", id="a long, dotted claim"
    ),
    pytest.param("spec.dataset.train.uri", "s3://acme/folder/", id="a prefix"),
    pytest.param("spec.dataset.test", {"uri": "s3://acme/test.jsonl"}, id="a test file"),
    pytest.param(
        "spec.dataset.train.uri", "hf://datasets/Org/Name@v1.0/data", id="a data set of the Hub"
    ),
    pytest.param(
        "spec.dataset.train",
        {
            "sources": [
                {"uri": "s3://acme/chat/", "weight": "0.5"},
                {"uri": "pvc://notes/a.txt.zst", "format": "Text"},
            ]
        },
        id="several sources",
    ),
    pytest.param(
        "spec.dataset",
        {"train": TRAIN, "template": "Custom", "customTemplate": "{{ messages }}"},
        id="a chat template of one's own",
    ),
    pytest.param(
        "spec.dataset",
        {
            "train": TRAIN,
            "addTokens": ["<order>", "Kraftwerk 7", "가", "x", *(f"<{n}>" for n in range(252))],
            "addSpecialTokens": ["<|tool|>"],
        },
        id="as many new tokens as there may be",
    ),
    pytest.param(
        "spec.dataset.prompt",
        {
            "system": "Be brief.",
            "template": "Q: {{ prompt }}",
            "examples": [{"prompt": "Who?", "response": "We."}],
            "version": "v1",
        },
        id="a prompt with an example",
    ),
    pytest.param(
        "spec.dataset.clean",
        {
            "html": "Remove",
            "unicode": "Repair",
            "whitespace": "Normalize",
            "urls": "Remove",
            "emails": "Drop",
            "phones": "Keep",
            "pii": "Mask",
            "minCharacters": 10,
            "maxCharacters": 10,
            "language": ["en", "de"],
            "profanity": "Mask",
            "repetition": "Drop",
            "minQuality": "0.5",
            "deduplicate": "Near",
            "similarity": "0.7",
        },
        id="all of cleaning",
    ),
    pytest.param("spec.dataset.clean.minCharacters", 10, id="a shortest row and no longest"),
    pytest.param("spec.dataset.checks.onOverlap", "Fail", id="an overlap is an error"),
    pytest.param("spec.hyperparameters.learningRate", "2e-4", id="a learning rate with exponent"),
    pytest.param("spec.hyperparameters.epochs", "0.5", id="half an epoch"),
    pytest.param(
        "spec.method", {"lora": {"variant": "DoRA", "rank": 8}}, id="LoRA by length and direction"
    ),
    pytest.param(
        "spec.hyperparameters",
        {"packing": "Disabled", "scheduler": "WarmupStableDecay", "finalLearningRateShare": "0.1"},
        id="padded, with a schedule that ends above zero",
    ),
    *(
        pytest.param("spec.hyperparameters", given, id=f"a rate by {given['scheduler']}")
        for given in (
            {"scheduler": "CosineWithRestarts", "schedulerCycles": 4},
            {"scheduler": "Polynomial", "schedulerPower": "1"},
            {"scheduler": "WarmupStableDecay", "schedulerDecayShare": "0.1"},
        )
    ),
    pytest.param(
        "spec.hyperparameters",
        {"neftuneAlpha": "5", "labelSmoothing": "0.1", "optimizer": "Adafactor"},
        id="noise and smoothing",
    ),
    pytest.param("spec.objective", "Pretrain", id="plain text"),
    pytest.param("spec", {**JOB["spec"], **DPO}, id="preferences"),
    *(
        pytest.param("spec", {**JOB["spec"], **DPO, "dpo": dpo}, id=f"preferences by {dpo['loss']}")
        for dpo in (
            {"loss": "CPO", "sftWeight": "1", "labelSmoothing": "0.1"},
            {"loss": "SimPO", "beta": "2.5", "gammaBetaRatio": "0.3"},
            {"loss": "ORPO", "beta": "0.2"},
        )
    ),
    pytest.param("spec", {**JOB["spec"], "objective": "DPO"}, id="preferences, all by default"),
    pytest.param(
        "spec",
        {
            **JOB["spec"],
            "objective": "DPO",
            "dataset": {"train": {"sources": [{**TRAIN, "format": "Preference"}]}},
        },
        id="preferences in a source that says so",
    ),
    pytest.param("spec.compute", {"gpusPerNode": 8, "nodes": 4, "gpuType": "A100-80GB"}, id="GPUs"),
    pytest.param("spec.compute", {"gpusPerNode": 2, "sharding": "FSDP"}, id="parts on two GPUs"),
    pytest.param(
        "spec.compute", {"nodes": 2, "gpusPerNode": 0, "sharding": "FSDP"}, id="parts on CPUs"
    ),
    pytest.param("spec.compute", {"sharding": "DDP"}, id="whole copies on one GPU"),
    pytest.param("spec.evaluation", {"gates": [GATE]}, id="an absolute gate"),
    pytest.param("spec.evaluation", {"gates": [], "allowUngated": True}, id="no gate, said so"),
    pytest.param(
        "spec.evaluation.suites",
        [{"name": "heldout", "heldOut": {}}, {"name": "ask", "samples": {"prompts": ["Who?"]}}],
        id="sample questions",
    ),
    pytest.param("spec.evaluation", FULL_EVALUATION, id="every kind of suite"),
    pytest.param("spec.output.artifacts", ["Adapter", "Merged"], id="both artifacts"),
    pytest.param(
        "spec.output",
        {"uri": "s3://acme/m/", "artifacts": ["GGUF"], "gguf": {"quantization": "Q4_0"}},
        id="GGUF in four bits",
    ),
    pytest.param(
        "spec.output",
        {
            "uri": "s3://acme/m/",
            "artifacts": ["Merged", "Int8", "Ollama", "Package"],
            "gguf": {"quantization": "Q4_K_M"},
            "huggingFace": {
                "repository": "acme/support-1.5_b",
                "private": False,
                "secretRef": {"name": "hub"},
                "artifact": "Package",
            },
        },
        id="all forms, pushed to the Hub",
    ),
    pytest.param("spec.deployTo", {"name": "support"}, id="offered to a deployment"),
    pytest.param("spec.output.modelVersion", {"tags": ["stable", "next-2"]}, id="two channels"),
    pytest.param("spec.s3", {"endpoint": "http://minio:9000", "pathStyle": True}, id="own S3"),
    pytest.param("spec.runPolicy.ttlSecondsAfterFinished", 0, id="deleted at once"),
    pytest.param(
        "spec.dataset.synthetic",
        {
            "generator": {
                "url": "https://llm.acme.dev/v1",
                "model": "big",
                "secretRef": {"name": "llm"},
            },
            "prompts": ["Like {{ examples }}, but new."],
            "temperature": "1.2",
        },
        id="rows written by a model elsewhere",
    ),
    pytest.param(
        "spec.dataset.synthetic",
        {"generator": {"uri": "hf://org/small"}, "prompts": ["More."], "samples": 5},
        id="rows written by a small model",
    ),
    pytest.param(
        "spec.output.tracking",
        {
            "mlflow": {"uri": "https://mlflow.acme.dev", "experiment": "support"},
            "wandb": {"project": "support", "entity": "acme", "secretRef": {"name": "wandb"}},
        },
        id="two services that are told of the curve",
    ),
    pytest.param("metadata.name", "a" * 45, id="the longest name"),
    pytest.param(
        "spec.output.modelVersion",
        {"model": "m" * 50, "version": "2.0-rc.1-xy"},
        id="63 characters of name",
    ),
    pytest.param("spec.output.modelVersion", {"version": "1" * 32}, id="the longest version"),
    pytest.param("spec.output.modelVersion", {"model": "m" * 50}, id="the longest model"),
    pytest.param("spec.compute.image", "r/" + "x" * 438, id="the longest image"),
    pytest.param(
        "spec.compute.nodeSelector",
        {"disktype": "ssd", "node.example.org/Zone_1": "A.b-c", "empty": ""},
        id="labels of nodes",
    ),
    pytest.param(
        "spec.compute.tolerations",
        [
            {"operator": "Exists"},
            {"key": "example.org/gpu", "value": "a", "effect": "NoExecute", "tolerationSeconds": 0},
        ],
        id="tolerations of all and of one",
    ),
    pytest.param(
        "spec.compute.resources.limits",
        {"cpu": "1", "hugepages-2Mi": "2Mi", "example.org/fpga": "1"},
        id="resources of all kinds",
    ),
    pytest.param(
        "spec.compute.resources",
        {
            "requests": {"cpu": "500m", "memory": "1024Mi", "example.org/fpga": "2"},
            "limits": {"cpu": "0.5", "memory": "1Gi", "example.org/fpga": "2"},
        },
        id="all of the limits requested, in other units",
    ),
    pytest.param(
        "spec.dataset",
        {"train": TRAIN, "validation": {"percent": "50"}, "test": {"percent": "49.9"}},
        id="hardly a row to train on",
    ),
    pytest.param(
        "spec.dataset",
        {"train": TRAIN, "validation": {"percent": "50"}, "test": {"uri": "s3://acme/t.jsonl"}},
        id="half of the rows and others held out",
    ),
]

REFUSED = [
    pytest.param("spec.model", None, "spec.model", id="no model"),
    pytest.param("spec.model.uri", "http://x/y", "spec.model.uri", id="an unknown scheme"),
    pytest.param(
        "spec.model.uri", "s3://acme/../etc", "must not contain", id="a model above its bucket"
    ),
    pytest.param("spec.model.uri", "s3:///abs", "spec.model.uri", id="a model without bucket"),
    pytest.param("spec.model.uri", "s3://My Bucket/m", "model.uri", id="a bucket with a blank"),
    pytest.param("spec.model.uri", "pvc://My Claim/m", "model.uri", id="a claim with a blank"),
    pytest.param("spec.model.uri", "pvc:///m", "spec.model.uri", id="a model without claim"),
    pytest.param("spec.model.uri", "file:///m", "a pod has no files of yours", id="a local model"),
    pytest.param(
        "spec.output.uri", "file:///out/", "a pod has no files of yours", id="a local output"
    ),
    pytest.param("spec.model.uri", "builtin://huge", "spec.model.uri", id="an unknown built-in"),
    pytest.param(
        "spec.dataset.train.uri", "s3://acme/a/../b", "must not contain", id="dots in data"
    ),
    *(
        pytest.param(path, value, "must not contain '..'", id=f"dots in {what}")
        for what, path, value in (
            ("a source", "spec.dataset.train", {"sources": [{"uri": ABOVE}]}),
            ("validation rows", "spec.dataset.validation", {"uri": ABOVE}),
            ("test rows", "spec.dataset.test", {"uri": ABOVE}),
            ("a generator", "spec.dataset.synthetic", synthetic(uri=ABOVE)),
            ("questions", "spec.evaluation.suites", suite("prompts", uri=ABOVE)),
            ("intents", "spec.evaluation.suites", suite("intent", uri=ABOVE)),
            ("what is judged", "spec.evaluation.suites", suite("judge", uri=ABOVE)),
            (
                "task files",
                "spec.evaluation.suites",
                suite("lmEval", tasks=["ours"], taskFiles={"uri": ABOVE}),
            ),
        )
    ),
    *(
        pytest.param(path, value, "metadata service", id=f"the metadata service as {what}")
        for what, path, value in (
            ("S3", "spec.s3", {"endpoint": "http://169.254.169.254/"}),
            ("judge", "spec.evaluation.suites", suite("judge", url=METADATA)),
            ("generator", "spec.dataset.synthetic", synthetic(url=METADATA, model="m")),
            ("MLflow", "spec.output.tracking", {"mlflow": {"uri": METADATA}}),
            (
                "Weights & Biases",
                "spec.output.tracking",
                {"wandb": {"project": "p", "baseUrl": METADATA, "secretRef": {"name": "k"}}},
            ),
        )
    ),
    pytest.param("spec.dataset.train.uri", "s3://acme//etc/passwd", "train.uri", id="absolute key"),
    pytest.param("spec.output.uri", "s3://acme/../x/", "must not contain", id="dots in output"),
    pytest.param("spec.output.uri", "file:///tmp", "spec.output.uri", id="a local output"),
    pytest.param(
        "spec.dataset.synthetic",
        {"generator": {"url": "https://x/v1"}, "prompts": ["More."]},
        "url needs model",
        id="an endpoint without a model",
    ),
    pytest.param(
        "spec.dataset.synthetic",
        {"generator": {}, "prompts": ["More."]},
        "exactly one of uri, url",
        id="rows written by nobody",
    ),
    pytest.param(
        "spec.dataset.synthetic",
        {"generator": {"uri": "hf://o/m", "secretRef": {"name": "k"}}, "prompts": ["More."]},
        "secretRef is for url",
        id="a key for a model without an endpoint",
    ),
    pytest.param(
        "spec.dataset.synthetic",
        {"generator": {"uri": "hf://o/m"}, "prompts": ["More."], "temperature": "3"},
        "between 0 and 2",
        id="too hot a generator",
    ),
    pytest.param("spec.output.tracking", {}, "set mlflow, wandb", id="tracking by nobody"),
    pytest.param(
        "spec.output.tracking",
        {"mlflow": {"uri": "sqlite:///x.db"}},
        "give the server's URL",
        id="a tracking store in the pod",
    ),
    pytest.param(
        "spec.output.tracking",
        {"wandb": {"project": "p"}},
        "secretRef",
        id="Weights & Biases without a key",
    ),
    pytest.param("spec.output.uri", "s3://acme/" + "x" * 1100, "220", id="an endless output"),
    pytest.param(
        "spec.output",
        {"uri": "s3://acme/m/", "gguf": {}},
        "needs GGUF or Ollama in output.artifacts",
        id="how to write a GGUF that nobody wants",
    ),
    pytest.param(
        "spec.output",
        {"uri": "s3://acme/m/", "artifacts": ["GGUF"], "gguf": {"quantization": "Q2_K"}},
        "gguf.quantization",
        id="an unknown quantization",
    ),
    pytest.param(
        "spec.dataset.clean",
        {"minCharacters": 11, "maxCharacters": 10},
        "minCharacters must not be above maxCharacters",
        id="a shortest row above the longest",
    ),
    pytest.param(
        "spec.dataset.clean.similarity", "0.69", "between 0.7 and 1", id="hardly alike rows"
    ),
    pytest.param(
        "spec.dataset.clean.similarity", "1.01", "between 0.7 and 1", id="more than equal"
    ),
    pytest.param("spec.dataset.clean.minQuality", "1.1", "between 0 and 1", id="too good a row"),
    pytest.param("spec.dataset.clean.language", ["English"], "language", id="a language's name"),
    pytest.param("spec.dataset.clean.language", ["en"] * 17, "at most 16", id="too many languages"),
    pytest.param("spec.dataset.clean.pii", "Hide", "pii", id="an unknown policy"),
    pytest.param("spec.dataset.clean.profanity", "Remove", "profanity", id="no such policy here"),
    pytest.param("spec.dataset.clean.minCharacters", -1, "minCharacters", id="less than no text"),
    pytest.param("spec.dataset.checks.onOverlap", "Keep", "onOverlap", id="an overlap that stays"),
    pytest.param(
        "spec.output",
        {"uri": "s3://acme/m/", "huggingFace": {"repository": "a/b", "artifact": "Package"}},
        "must be one of output.artifacts",
        id="what is not made cannot be pushed",
    ),
    pytest.param(
        "spec.output",
        {"uri": "s3://acme/m/", "huggingFace": {"repository": "support"}},
        "huggingFace.repository",
        id="a repository without owner",
    ),
    pytest.param(
        "spec.output",
        {"uri": "s3://acme/m/", "huggingFace": {"repository": "acme/../x"}},
        "huggingFace.repository",
        id="dots in a repository",
    ),
    pytest.param("spec.deployTo", {}, "deployTo.name", id="offered to nobody by name"),
    pytest.param("spec.deployTo", {"name": "Support!"}, "deployTo.name", id="a name that is none"),
    pytest.param("spec.deployTo", {"name": "a" * 64}, "63", id="an endless name"),
    pytest.param(
        "spec.deployTo", {"name": "a", "namespace": "b"}, "unknown field", id="another namespace"
    ),
    *(
        pytest.param(
            "spec.output.modelVersion.version", version, "modelVersion.version", id=f"version {why}"
        )
        for why, version in (
            ("of 33 characters", "1" * 33),
            ("with two dots", "1..2"),
            ("with a part that begins with a dash", "1.-2"),
        )
    ),
    pytest.param(
        "spec.output.modelVersion",
        {"model": "m" * 50, "version": "1" * 12},
        "must have at most 63 characters",
        id="64 characters of name",
    ),
    pytest.param("spec.compute.image", "r/" + "x" * 439, "compute.image", id="an endless image"),
    pytest.param(
        "spec.compute.serviceAccountName", "a..b", "serviceAccountName", id="no account's name"
    ),
    pytest.param(
        "spec.output.modelVersion.tags", ["Stable"], "modelVersion.tags", id="a channel in capitals"
    ),
    pytest.param(
        "spec.output.modelVersion.tags", ["a", "a"], "Duplicate", id="the same channel twice"
    ),
    pytest.param(
        "spec.output.modelVersion.tags",
        [f"c{i}" for i in range(9)],
        "at most 8",
        id="too many channels",
    ),
    pytest.param(
        "spec",
        {**JOB["spec"], "deployTo": {"name": "support"}, "evaluation": {"gates": []}},
        "allowUngated",
        id="offered without any gate",
    ),
    pytest.param("spec.method", {}, "exactly one", id="no method"),
    pytest.param("spec.method", {"lora": {}, "full": {}}, "exactly one", id="two methods"),
    pytest.param("spec.method", {"lora": {"rank": 0}}, "rank", id="rank zero"),
    pytest.param("spec.method", {"lora": {"dropout": "1.0"}}, "below 1", id="all dropped out"),
    pytest.param("spec.method", {"qlora": {"dropout": "1"}}, "below 1", id="all of 4 bits dropped"),
    *(
        pytest.param(
            f"spec.hyperparameters.{name}", value, f"between 0 and {most}", id=f"{name} of {value}"
        )
        for name, most, above in (
            ("weightDecay", "1", "1.01"),
            ("finalLearningRateShare", "1", "1.01"),
            ("maxGradientNorm", "1000", "1001"),
            ("neftuneAlpha", "1000", "1001"),
        )
        for value in (above, "-0.01")
    ),
    *(
        pytest.param(
            "spec.dataset.synthetic",
            {**synthetic(uri="hf://o/m"), "minQuality": value},
            "between 0 and 1",
            id=f"synthetic rows of quality {value}",
        )
        for value in ("1.01", "-0.01")
    ),
    *(
        pytest.param(
            "spec",
            {**JOB["spec"], **DPO, "dpo": {"sftWeight": value}},
            "between 0 and 100",
            id=f"sftWeight of {value}",
        )
        for value in ("101", "-1")
    ),
    pytest.param("spec.method", {"lora": {"dropout": 0.5}}, "dropout", id="a float for a decimal"),
    pytest.param("spec.dataset.test", {}, "exactly one", id="a split of nothing"),
    pytest.param("spec.dataset.train", {}, "exactly one", id="no source"),
    pytest.param(
        "spec.dataset.train", {"sources": []}, "at least 1", id="an empty list of sources"
    ),
    pytest.param(
        "spec.dataset.train", {**TRAIN, "sources": [TRAIN]}, "exactly one", id="uri and sources"
    ),
    pytest.param("spec.dataset.train", {"sources": [TRAIN] * 17}, "at most 16", id="17 sources"),
    pytest.param(
        "spec.dataset.train",
        {"sources": [{**TRAIN, "weight": "0"}]},
        "above 0",
        id="a source of no weight",
    ),
    pytest.param(
        "spec.dataset.train.uri", "file:///home/a.jsonl", "without a cluster", id="a local file"
    ),
    pytest.param("spec.dataset.test", {"uri": "file:///a"}, "without a cluster", id="a local test"),
    pytest.param("spec.dataset.train.uri", "hf://org/name", "train.uri", id="a model as data"),
    pytest.param(
        "spec.dataset", {"train": TRAIN, "template": "Custom"}, "customTemplate", id="no template"
    ),
    pytest.param(
        "spec.dataset",
        {"train": TRAIN, "customTemplate": "{{ messages }}"},
        "customTemplate",
        id="a custom template that is not used",
    ),
    *(
        pytest.param("spec.dataset", {"train": TRAIN, "addTokens": tokens}, words, id=name)
        for name, tokens, words in (
            ("a token that is nothing", [""], "should be at least 1 chars long"),
            ("a token of white space", ["  "], "must not be white space"),
            ("a token with white space at its end", ["<a> "], "nor begin or end with it"),
            ("a token of two lines", ["<a>\n<b>"], "nor hold a line break"),
            ("a token twice", ["<a>", "<b>", "<a>"], "Duplicate value"),
            ("a token that is too long", ["a" * 65], "may not be more than 64"),
            ("too many tokens", [f"<{n}>" for n in range(257)], "must have at most 256 items"),
            ("a token that is a number", [7], "must be of type string"),
        )
    ),
    pytest.param(
        "spec.dataset",
        {"train": TRAIN, "addTokens": ["<a>", "<b>"], "addSpecialTokens": ["<b>"]},
        "stands in both addTokens and addSpecialTokens",
        id="a token that is special and plain",
    ),
    pytest.param(
        "spec.dataset.prompt",
        {"template": "no question"},
        "must contain",
        id="a prompt for nothing",
    ),
    pytest.param(
        "spec.dataset.prompt", {"template": "prompt" * 2000}, "8192", id="an endless prompt"
    ),
    pytest.param("spec.dataset.feedback", "Great", "Unsupported value", id="an unknown feedback"),
    pytest.param(
        "spec.dataset.test",
        {"percent": "5", "uri": "s3://acme/t.jsonl"},
        "exactly one",
        id="a split twice",
    ),
    pytest.param(
        "spec.dataset.test", {"percent": "80"}, "between 0 and 50", id="too large a split"
    ),
    pytest.param("spec.dataset.checks", {"minRows": 9, "maxRows": 3}, "minRows", id="min over max"),
    pytest.param("spec.dataset.checks.failOnMalformed", "1.5", "between", id="more than all rows"),
    pytest.param("spec.dataset.format", "CSV", "Unsupported value", id="an unknown format"),
    pytest.param("spec.hyperparameters.learningRate", "fast", "learningRate", id="a word as rate"),
    pytest.param("spec.hyperparameters.learningRate", "0", "above 0", id="no learning rate"),
    pytest.param("spec.hyperparameters.learningRate", "5", "at most 1", id="a rate above 1"),
    pytest.param("spec.hyperparameters.epochs", "-1", "above 0", id="negative epochs"),
    pytest.param("spec.hyperparameters.perDeviceBatchSize", 0, "perDeviceBatchSize", id="no batch"),
    pytest.param("spec.hyperparameters.maxSequenceLength", 4, "maxSequenceLength", id="no context"),
    pytest.param("spec.hyperparameters.packing", "Maybe", "Unsupported value", id="no switch"),
    pytest.param("spec.hyperparameters.labelSmoothing", "1", "below 1", id="nothing but smoothing"),
    pytest.param(
        "spec",
        JOB["spec"]
        | {"compute": {"gpusPerNode": 0}, "hyperparameters": {"optimizer": "AdamW8bit"}},
        "needs a GPU",
        id="8-bit state on a CPU",
    ),
    pytest.param("spec.compute", {"sharding": "FSDP"}, "two processes", id="parts on one GPU"),
    pytest.param(
        "spec",
        JOB["spec"] | {"compute": PARTS, "method": {"qlora": {}}},
        "cannot part 4-bit weights",
        id="parts of 4-bit weights",
    ),
    *(
        pytest.param(
            "spec",
            JOB["spec"] | {"compute": PARTS, "hyperparameters": {"optimizer": optimizer}},
            "cannot part the state",
            id=f"parts with {optimizer}",
        )
        for optimizer in ("AdamW8bit", "Adafactor")
    ),
    pytest.param("spec.compute.sharding", "ZeRO", "Unsupported value", id="an unknown sharding"),
    pytest.param("spec.method", {"lora": {"variant": "Dora"}}, "DoRA", id="an unknown variant"),
    pytest.param("spec.hyperparameters.warmup", 4, "unknown field", id="a field that is not"),
    pytest.param(
        "spec.hyperparameters.earlyStopping",
        {},
        "needs dataset.validation",
        id="nothing to stop by",
    ),
    pytest.param("spec.objective", "ORPO", "Unsupported value", id="an unknown objective"),
    pytest.param("spec.dpo", {}, "needs spec.objective DPO", id="DPO's settings for SFT"),
    pytest.param(
        "spec", {**JOB["spec"], **DPO, "dpo": {"beta": "0"}}, "above 0", id="a model let go"
    ),
    pytest.param(
        "spec",
        {**JOB["spec"], **DPO, "dpo": {"labelSmoothing": "0.5"}},
        "below 0.5",
        id="preferences that say nothing",
    ),
    pytest.param(
        "spec",
        {**JOB["spec"], **DPO, "dpo": {"labelSmoothing": "0.1", "loss": "IPO"}},
        "Sigmoid, Robust, CPO or SimPO",
        id="smoothing of a loss without labels",
    ),
    *(
        pytest.param("spec", {**JOB["spec"], **DPO, "dpo": dpo}, message, id=name)
        for name, dpo, message in (
            ("smoothing of odds", {"labelSmoothing": "0.1", "loss": "ORPO"}, "needs loss Sigmoid"),
            (
                "a margin to reach that is not looked at",
                {"gammaBetaRatio": "0.3"},
                "needs loss SimPO",
            ),
            (
                "a margin to reach of 11 nats",
                {"gammaBetaRatio": "11", "loss": "SimPO", "beta": "2"},
                "between 0 and 10",
            ),
            ("DPO's beta for means over tokens", {"loss": "SimPO"}, "2 to 10"),
            ("the better answer's loss twice", {"loss": "ORPO", "sftWeight": "1"}, "sftWeight out"),
            ("an unknown preference loss", {"loss": "KTO"}, "Unsupported value"),
        )
    ),
    *(
        pytest.param("spec.hyperparameters", given, message, id=name)
        for name, given, message in (
            ("cycles that are not gone through", {"schedulerCycles": 3}, "CosineWithRestarts"),
            ("a power of a cosine", {"schedulerPower": "1"}, "needs scheduler Polynomial"),
            ("a decay of a cosine", {"schedulerDecayShare": "0.1"}, "WarmupStableDecay"),
            (
                "no cycle",
                {"schedulerCycles": 0, "scheduler": "CosineWithRestarts"},
                "schedulerCycles",
            ),
            (
                "a power of nothing",
                {"schedulerPower": "0", "scheduler": "Polynomial"},
                "above 0 and at most 10",
            ),
            (
                "a decay of more than all",
                {"schedulerDecayShare": "1.1", "scheduler": "WarmupStableDecay"},
                "above 0 and at most 1",
            ),
            ("a rate that looks at the loss", {"scheduler": "Plateau"}, "Unsupported value"),
        )
    ),
    pytest.param(
        "spec",
        {**JOB["spec"], **DPO, "hyperparameters": {"labelSmoothing": "0.1"}},
        "dpo.labelSmoothing",
        id="the smoothing of tokens with DPO",
    ),
    pytest.param(
        "spec",
        {**JOB["spec"], **DPO, "dataset": {"train": TRAIN, "format": "Messages"}},
        "learns from preferences",
        id="conversations for DPO",
    ),
    pytest.param(
        "spec",
        {
            **JOB["spec"],
            **DPO,
            "dataset": {"train": {"sources": [{**TRAIN, "format": "Text"}]}},
        },
        "learns from preferences",
        id="a source of text for DPO",
    ),
    pytest.param(
        "spec.dataset", {"train": TRAIN, "format": "Preference"}, "objective DPO", id="SFT on pairs"
    ),
    pytest.param("spec.compute.gpusPerNode", 17, "gpusPerNode", id="too many GPUs"),
    pytest.param("spec.compute.nodes", 0, "nodes", id="no nodes"),
    pytest.param(
        "spec.compute",
        {"gpusPerNode": 0, "gpuType": "A100"},
        "gpusPerNode above 0",
        id="a kind of no GPU",
    ),
    pytest.param("spec.compute.gpuType", "A100; rm", "gpuType", id="a hostile GPU type"),
    pytest.param("spec.compute.sharedMemory", "lots", "sharedMemory", id="no quantity"),
    pytest.param(
        "spec.compute.nodeSelector",
        {f"k{i}": "v" for i in range(17)},
        "nodeSelector",
        id="huge map",
    ),
    pytest.param(
        "spec.compute.nodeSelector", {"a b": "v"}, "names of labels", id="no label's name"
    ),
    pytest.param("spec.compute.nodeSelector", {"a": "v w"}, "nodeSelector", id="no label's value"),
    pytest.param(
        "spec.compute.resources.limits", {"memry": "1Gi"}, "names must be cpu", id="a typing error"
    ),
    pytest.param(
        "spec.compute.resources",
        {"requests": {"cpu": "1", "memory": "2Gi"}, "limits": {"cpu": "1", "memory": "2G"}},
        "a request is above the limit of its name",
        id="more memory requested than allowed",
    ),
    pytest.param(
        "spec.compute.resources",
        {"requests": {"example.org/fpga": "1"}, "limits": {"example.org/fpga": "2"}},
        "must equal their limits",
        id="a device that may become two",
    ),
    pytest.param(
        "spec.compute.resources",
        {"requests": {"hugepages-2Mi": "2Mi"}},
        "must equal their limits",
        id="huge pages without a limit",
    ),
    pytest.param(
        "spec.dataset",
        {"train": TRAIN, "validation": {"percent": "50"}, "test": {"percent": "50"}},
        "leave none to train on",
        id="all rows held out",
    ),
    *(
        pytest.param("spec.compute.tolerations", [toleration], words, id=f"a toleration {what}")
        for what, toleration, words in (
            ("of nothing", {"value": "x"}, "set operator Exists"),
            (
                "with a value too many",
                {"key": "a", "operator": "Exists", "value": "x"},
                "leave value out",
            ),
            (
                "for a while of what never ends",
                {"key": "a", "operator": "Exists", "effect": "NoSchedule", "tolerationSeconds": 5},
                "needs effect NoExecute",
            ),
            ("of what is no taint", {"key": "a b", "operator": "Exists"}, "tolerations"),
        )
    ),
    pytest.param("spec.checkpoint.keepLast", 1, "keepLast", id="only one checkpoint"),
    pytest.param("spec.evaluation", {"gates": []}, "allowUngated", id="no gate and not said so"),
    pytest.param(
        "spec.evaluation.gates",
        [{**GATE, "metric": "other/loss"}],
        "a suite that measures",
        id="unmeasured",
    ),
    pytest.param(
        "spec.evaluation",
        {
            "suites": [{"name": "ask", "samples": {"prompts": ["Who?"]}}],
            "gates": [{**GATE, "metric": "ask/exact"}],
        },
        "a suite that measures",
        id="a gate on samples",
    ),
    pytest.param(
        "spec.evaluation.gates",
        [{**GATE, "relation": "LowerBy", "comparedWith": "Previous"}],
        "among evaluation.baselines",
        id="a baseline that is not measured",
    ),
    pytest.param(
        "spec.evaluation.suites",
        [{"name": "heldout", "heldOut": {}, "speed": {}}],
        "exactly one",
        id="two kinds in one suite",
    ),
    *(
        pytest.param(
            "spec.evaluation.suites",
            suite(kind, uri="s3://acme/q.jsonl", items=ITEMS),
            "at most one of uri and items",
            id=f"two places of questions for {kind}",
        )
        for kind in ("prompts", "intent", "judge")
    ),
    pytest.param(
        "spec.evaluation.suites",
        [{"name": "heldout", "prompts": {"metrics": ["ROUGE"]}}],
        "metrics",
        id="an unknown text metric",
    ),
    pytest.param(
        "spec.evaluation.suites",
        [{"name": "heldout", "judge": {"url": "judge:8000", "model": "m"}}],
        "url",
        id="a judge without scheme",
    ),
    pytest.param("spec.evaluation.gates", [{**GATE, "metric": "loss"}], "metric", id="no suite"),
    pytest.param("spec.evaluation.gates", [GATE] * 17, "gates", id="too many gates"),
    pytest.param("spec.evaluation.suites", [{"name": "x"}], "exactly one", id="an empty suite"),
    pytest.param("spec.output.artifacts", [], "artifacts", id="no artifact"),
    pytest.param("spec.runPolicy.backoffLimit", -1, "backoffLimit", id="negative retries"),
    pytest.param(
        "spec.s3", {"endpoint": "minio:9000"}, "endpoint", id="an endpoint without scheme"
    ),
    pytest.param("metadata.name", "a" * 46, "at most 45", id="too long a name"),
    pytest.param("metadata.name", "a.b", "no dots", id="a dotted name"),
    pytest.param("metadata.name", "7b", "begin with a letter", id="a name with a digit first"),
]


@pytest.fixture(scope="module")
def demo(control_plane: ControlPlane) -> ControlPlane:
    # The demo's own objects may have made it already.
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "tunesmith-demo"}}
    control_plane.kubectl("apply", "-f", "-", stdin=json.dumps(body))
    return control_plane


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.name)
def test_the_api_server_takes_the_example(demo: ControlPlane, path: Path) -> None:
    told = demo.kubectl("create", "--dry-run=server", "--validate=strict", "-f", str(path))
    assert "created" in told


@pytest.mark.parametrize(("path", "value"), ACCEPTED)
def test_the_api_server_takes(control_plane: ControlPlane, path: str, value: object) -> None:
    try_to_create(control_plane, changed(JOB, path, value))


@pytest.mark.parametrize(("path", "value", "words"), REFUSED)
def test_the_api_server_refuses(
    control_plane: ControlPlane, path: str, value: object, words: str
) -> None:
    with pytest.raises(StepError) as refused:
        try_to_create(control_plane, changed(JOB, path, value))
    assert words in str(refused.value)


def test_contradictions_between_sections_are_refused(control_plane: ControlPlane) -> None:
    both = changed(changed(JOB, "spec.method", {"full": {}}), "spec.output.artifacts", ["Adapter"])
    with pytest.raises(StepError, match="Adapter needs method lora or qlora"):
        try_to_create(control_plane, both)
    untested = changed(JOB, "spec.dataset.test", {"percent": "0"})
    with pytest.raises(StepError, match=r"gates need dataset\.test"):
        try_to_create(control_plane, untested)
    tiny = changed(changed(JOB, "spec.method", {"qlora": {}}), "spec.model.uri", "builtin://tiny")
    with pytest.raises(StepError, match="no use for builtin"):
        try_to_create(control_plane, tiny)
    long = changed(changed(JOB, "metadata.name", "a" * 45), "spec.output.modelVersion.version", "1")
    try_to_create(control_plane, long)
    with pytest.raises(StepError, match="must have at most 63 characters"):
        try_to_create(control_plane, changed(long, "spec.output.modelVersion.version", "1" * 17))
    deployed = changed(JOB, "spec.evaluation.baselines", ["Deployed"])
    with pytest.raises(StepError, match="Deployed needs deployTo"):
        try_to_create(control_plane, deployed)
    try_to_create(control_plane, changed(deployed, "spec.deployTo", {"name": "support"}))
