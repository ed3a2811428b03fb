"""What the real API server refuses in the other sections of a job, and why."""

import pytest

from deploy.native.apiserver import ControlPlane
from deploy.shell import StepError
from tests.integration.calls import try_to_create
from tests.integration.manifests import (
    ABOVE,
    GATE,
    ITEMS,
    JOB,
    METADATA,
    PARTS,
    changed,
    suite,
    synthetic,
)

pytestmark = pytest.mark.integration


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
    pytest.param("spec.output.uri", "s3://acme/../x/", "must not contain", id="dots in output"),
    pytest.param("spec.output.uri", "file:///tmp", "spec.output.uri", id="a local output"),
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


@pytest.mark.parametrize(("path", "value", "words"), REFUSED)
def test_the_api_server_refuses(
    control_plane: ControlPlane, path: str, value: object, words: str
) -> None:
    with pytest.raises(StepError) as refused:
        try_to_create(control_plane, changed(JOB, path, value))
    assert words in str(refused.value)
