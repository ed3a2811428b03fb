"""What the real API server takes of a FineTuneJob: its sections and the examples."""

import json
from pathlib import Path

import pytest

from deploy.native.apiserver import ControlPlane
from deploy.shell import StepError
from tests.integration.calls import try_to_create
from tests.integration.manifests import DPO, GATE, JOB, TRAIN, changed

pytestmark = pytest.mark.integration

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.yaml"))
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
