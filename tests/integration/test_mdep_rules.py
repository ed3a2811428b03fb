"""Every rule of ModelDeployment against the real API server: what it takes, refuses, and why."""

from typing import Any

import pytest

from deploy.native.apiserver import ControlPlane
from deploy.shell import StepError
from tests.integration.calls import try_to_create
from tests.integration.manifests import changed

pytestmark = pytest.mark.integration

DIGEST = "sha256:" + "a" * 64
MDEP: dict[str, Any] = {
    "apiVersion": "tunesmith.dev/v1alpha1",
    "kind": "ModelDeployment",
    "metadata": {"name": "support", "namespace": "default"},
    "spec": {"source": {"modelVersion": "support-v1"}},
}
STEPS = "spec.rollout.steps"
METRICS = "spec.rollout.analysis.metrics"
ERRORS = {"name": "errors", "builtin": "ErrorRate", "max": "0.01"}
QUERY = {"name": "custom", "query": "sum(x)", "max": "0.05"}
PROMETHEUS = {"type": "Prometheus", "prometheus": {"url": "http://prometheus.monitoring:9090"}}
GOLDEN = {"name": "quality", "goldenPrompts": {"configMapRef": {"name": "golden"}}, "min": "0.9"}
COMPARED = {"comparedWith": "Stable", "maxRegressionPercent": 20}
KEYS = {"apiKeySecretRef": {"name": "keys", "key": "clients"}}
EVERYTHING = {
    "paused": True,
    "source": {"model": "support", "channel": "production"},
    "delivery": "Adapter",
    "engine": {
        "type": "VLLM",
        "image": "registry/vllm:1",
        "args": ["--max-model-len=4096"],
        "env": [
            {"name": "A", "value": "1"},
            {"name": "B", "secretKeyRef": {"name": "keys", "key": "b"}},
        ],
        "resources": {"limits": {"memory": "8Gi"}},
        "gpus": 1,
        "gpuType": "A100",
    },
    "access": KEYS,
    "conversationLog": {"uri": "s3://acme/logs/"},
    "replicas": 2,
    "autoscaling": {"minReplicas": 2, "maxReplicas": 8, "targetInFlightRequests": 40},
    "routing": {
        "router": "GatewayAPI",
        "gateway": {"parentRefs": [{"name": "public"}], "hostname": "models.example.org"},
    },
    "rollout": {
        "capacity": {"mode": "NoSurge"},
        "steps": [
            {"weight": 0, "holdSeconds": 300},
            {"weight": 10, "holdSeconds": 600},
            {"weight": 50, "holdSeconds": 600},
        ],
        "approval": "Manual",
        "approvedDigest": DIGEST,
        "analysis": {
            "provider": PROMETHEUS,
            "metrics": [
                ERRORS,
                {"name": "latency", "builtin": "LatencyP95", **COMPARED},
                GOLDEN,
                QUERY,
            ],
        },
        "failFast": {"consecutiveErrors": 20, "restarts": 2},
        "rollback": {"notify": {"url": "https://hooks.example.org/x"}},
    },
}

ACCEPTED = [
    pytest.param("spec.paused", False, id="the minimal deployment"),
    pytest.param("spec", EVERYTHING, id="everything at once"),
    pytest.param("spec.source", {"model": "support", "channel": "beta"}, id="a channel"),
    pytest.param("spec.source", {"uri": "s3://acme/m/", "digest": DIGEST}, id="files by digest"),
    pytest.param("spec.engine", {"type": "Custom", "image": "me/x:1", "port": 80}, id="own engine"),
    pytest.param(
        "spec.engine", {"type": "VLLM", "image": "me/vllm-cpu:1"}, id="vLLM without a GPU"
    ),
    pytest.param("spec.engine", {"gpus": 2, "gpuType": "L4"}, id="GPUs and no engine named"),
    pytest.param(
        "spec",
        {
            "source": {"modelVersion": "v"},
            "delivery": "Adapter",
            "engine": {"gpus": 1},
        },
        id="adapters in the default engine of a GPU",
    ),
    pytest.param("spec.access", KEYS, id="clients with keys"),
    pytest.param(
        "spec.conversationLog",
        {"uri": "s3://acme/logs/", "flushSeconds": 1, "sessionHeader": "X-Chat"},
        id="a log",
    ),
    pytest.param(STEPS, [{"weight": 0, "mirrorPercent": 100}], id="only a dark launch"),
    pytest.param(STEPS, [{"weight": w} for w in range(1, 17)], id="sixteen steps"),
    pytest.param(METRICS, [ERRORS, GOLDEN], id="errors and golden prompts"),
    pytest.param(METRICS, [{**ERRORS, "min": "0", "max": "0"}], id="equal limits"),
    pytest.param(METRICS, [{**GOLDEN, "min": "1", "max": "1"}], id="nothing but right answers"),
    pytest.param(
        METRICS,
        [
            {"name": "fast", "builtin": "TokensPerSecond", "min": "9"},
            {"name": "as-fast", "builtin": "TokensPerSecond", **COMPARED},
            {"name": "as-good", "goldenPrompts": GOLDEN["goldenPrompts"], **COMPARED},
            {"name": "as-slow", "builtin": "LatencyP50", "min": "1", **COMPARED},
        ],
        id="limits on the bad side",
    ),
    pytest.param(
        "spec.rollout.analysis",
        {"provider": {"type": "Webhook", "webhook": {"url": "http://judge"}}, "metrics": [QUERY]},
        id="a webhook that answers queries",
    ),
    pytest.param("spec.rollout.analysis", {"window": 1, "failureLimit": 1}, id="the first failure"),
    pytest.param(
        "spec.rollout.analysis",
        {"intervalSeconds": 60, "confirmSeconds": 60},
        id="failures confirmed no sooner",
    ),
    pytest.param("spec.routing", {"stickyHeader": "x-conversation-id"}, id="sticky conversations"),
    pytest.param(
        "spec.rollout.rollback", {"fastTrackRevisions": 10}, id="as many fast ones as are kept"
    ),
    pytest.param("metadata.name", "a" * 45, id="the longest name"),
]

REFUSED = [
    pytest.param("spec.source", None, "spec.source", id="no source"),
    pytest.param("spec.source", {}, "exactly one", id="an empty source"),
    pytest.param(
        "spec.source",
        {"modelVersion": "a", "model": "b", "channel": "c"},
        "exactly one",
        id="two sources",
    ),
    pytest.param("spec.source", {"model": "b"}, "belong together", id="a model without channel"),
    pytest.param(
        "spec.source",
        {"modelVersion": "a", "channel": "c"},
        "belong together",
        id="a channel of no model",
    ),
    pytest.param("spec.source", {"uri": "s3://acme/m/"}, "belong together", id="no digest"),
    pytest.param(
        "spec.source", {"uri": "s3://acme/../m/", "digest": DIGEST}, "must not contain", id="dots"
    ),
    pytest.param(
        "spec.source", {"uri": "s3://acme/m/", "digest": "md5:1"}, "digest", id="another digest"
    ),
    pytest.param("spec.engine", {"type": "TGI"}, "Unsupported value", id="an unknown engine"),
    pytest.param("spec.engine", {"type": "Custom"}, "needs engine.image", id="custom, no image"),
    pytest.param(
        "spec.engine", {"gpus": 1, "port": 80}, "engine.port is for", id="a port of the default"
    ),
    pytest.param(
        "spec",
        {
            "source": {"modelVersion": "v"},
            "delivery": "Adapter",
            "engine": {"type": "LlamaCpp", "gpus": 1},
        },
        "needs engine.type VLLM",
        id="adapters in llama.cpp with a GPU",
    ),
    pytest.param("spec.engine", {"port": 80}, "engine.port is for", id="a port of a known engine"),
    pytest.param("spec.engine", {"gpuType": "A100"}, "gpus above 0", id="a kind of no GPU"),
    pytest.param(
        "spec.engine",
        {"resources": {"requests": {"cpu": "1.5"}, "limits": {"cpu": "1200m"}}},
        "a request is above the limit of its name",
        id="more requested than allowed",
    ),
    pytest.param(
        "spec.engine", {"env": [{"name": "A"}]}, "exactly one", id="a variable without value"
    ),
    pytest.param("spec.engine", {"requestTimeoutSeconds": 0}, "requestTimeout", id="no time"),
    pytest.param("spec.engine", {"type": "VLLM"}, "needs engine.gpus", id="vLLM without a GPU"),
    pytest.param("spec.access", {}, "apiKeySecretRef", id="keys from nowhere"),
    pytest.param(
        "spec.access", {"apiKeySecretRef": {"name": "keys"}}, "key", id="all keys of a Secret"
    ),
    pytest.param("spec.conversationLog", {}, "conversationLog.uri", id="a log nowhere"),
    pytest.param(
        "spec.conversationLog",
        {"uri": "s3://acme/logs/", "sessionHeader": ""},
        "sessionHeader",
        id="sessions by no header",
    ),
    pytest.param(
        "spec.conversationLog", {"uri": "file:///logs"}, "conversationLog.uri", id="a log on disk"
    ),
    pytest.param(
        "spec.conversationLog",
        {"uri": "s3://acme/logs/", "flushSeconds": 0},
        "flushSeconds",
        id="a log without rest",
    ),
    pytest.param("spec.delivery", "Adapter", "needs engine.type VLLM", id="adapters in llama.cpp"),
    pytest.param("spec.replicas", 0, "spec.replicas", id="nobody to serve"),
    pytest.param(
        "spec.autoscaling", {"maxReplicas": 3}, "exactly one", id="scaling without a target"
    ),
    pytest.param(
        "spec.autoscaling",
        {"minReplicas": 4, "maxReplicas": 3, "targetCpuPercent": 80},
        "at most maxReplicas",
        id="scaling min over max",
    ),
    pytest.param("spec.routing", {"router": "GatewayAPI"}, "parentRefs", id="no gateway"),
    pytest.param(
        "spec.routing",
        {"router": "GatewayAPI", "gateway": {"parentRefs": []}},
        "parentRefs",
        id="a gateway without parents",
    ),
    pytest.param(
        "spec.routing",
        {"gateway": {"parentRefs": [{"name": "x"}]}},
        "needs router GatewayAPI",
        id="a gateway for HAProxy",
    ),
    pytest.param(
        "spec.routing",
        {
            "router": "GatewayAPI",
            "gateway": {"parentRefs": [{"name": "x"}]},
            "stickyHeader": "x-user",
        },
        "needs router HAProxy",
        id="a sticky HTTPRoute",
    ),
    pytest.param("spec.routing.stickyHeader", "a b", "stickyHeader", id="a header with a blank"),
    pytest.param(STEPS, [], "steps", id="no steps"),
    pytest.param(STEPS, [{"weight": 50}, {"weight": 10}], "must rise", id="falling steps"),
    pytest.param(STEPS, [{"weight": 10}, {"weight": 10}], "must rise", id="flat steps"),
    pytest.param(STEPS, [{"weight": 10}, {"weight": 0}], "must rise", id="dark too late"),
    pytest.param(STEPS, [{"weight": 100}], "weight", id="a step to 100"),
    pytest.param(STEPS, [{"weight": -1}], "weight", id="a negative weight"),
    pytest.param(STEPS, [{"weight": w} for w in range(1, 19)], "steps", id="too many steps"),
    pytest.param(
        STEPS, [{"weight": 5, "mirrorPercent": 5}], "needs weight 0", id="copies of live traffic"
    ),
    pytest.param(
        "spec.rollout.capacity", {"mode": "NoSurge"}, "replicas of at least 2", id="one pod, no GPU"
    ),
    pytest.param(
        "spec.rollout.approvedDigest", "latest", "approvedDigest", id="an approval of anything"
    ),
    pytest.param("spec.revisionHistoryLimit", 2, "forgotten", id="fast track to what is forgotten"),
    pytest.param(
        "spec.rollout.rollback",
        {"notify": {"url": "http://169.254.169.254/latest"}},
        "metadata service",
        id="news for the metadata service",
    ),
    pytest.param(
        "spec.s3", {"endpoint": "http://169.254.169.254"}, "metadata service", id="no S3 server"
    ),
    pytest.param(
        "spec.rollout.rollback", {"notify": {"url": "file:///etc"}}, "notify.url", id="a file"
    ),
    pytest.param("spec.rollout.analysis.failureLimit", 6, "at most window", id="limit over window"),
    pytest.param(
        "spec.rollout.analysis",
        {"intervalSeconds": 60, "confirmSeconds": 61},
        "at most intervalSeconds",
        id="failures confirmed later than by the next sample",
    ),
    pytest.param(
        "spec.rollout.analysis",
        {"intervalSeconds": 60, "dataTimeoutSeconds": 30},
        "at least intervalSeconds",
        id="a deadline before the first sample",
    ),
    pytest.param(
        "spec.rollout.analysis",
        {"provider": {"type": "Prometheus"}},
        "needs prometheus",
        id="Prometheus nowhere",
    ),
    pytest.param(
        "spec.rollout.analysis",
        {"provider": {"prometheus": {"url": "http://p"}}},
        "needs type Prometheus",
        id="a Prometheus that is not asked",
    ),
    pytest.param(
        "spec.rollout.analysis",
        {"provider": {"type": "Webhook"}},
        "needs webhook",
        id="a webhook nowhere",
    ),
    pytest.param(METRICS, [QUERY], "needs provider.type", id="a query nobody answers"),
    pytest.param(METRICS, [], "metrics", id="nothing to judge by"),
    pytest.param(METRICS, [ERRORS, ERRORS], "Duplicate", id="a metric twice"),
    pytest.param(METRICS, [{"name": "x", "max": "1"}], "exactly one", id="a metric of nothing"),
    pytest.param(METRICS, [{**ERRORS, **GOLDEN}], "exactly one", id="a metric of two things"),
    pytest.param(
        METRICS, [{"name": "x", "builtin": "ErrorRate"}], "needs a limit", id="no limit at all"
    ),
    pytest.param(METRICS, [{**ERRORS, "max": "low"}], "max", id="a word as limit"),
    pytest.param(METRICS, [{**ERRORS, "max": 0.1}], "max", id="a float as limit"),
    pytest.param(METRICS, [{**ERRORS, "max": "5"}], "share", id="errors in percent"),
    *(
        pytest.param(METRICS, [{**GOLDEN, **limits}], words, id=f"golden prompts of {limits}")
        for limits, words in (
            ({"min": "90"}, "must be between 0 and 1"),
            ({"min": "-1"}, "must be between 0 and 1"),
            ({"max": "90"}, "must be between 0 and 1"),
            ({"min": "0"}, "must be above 0"),
        )
    ),
    *(
        pytest.param(METRICS, [{**ERRORS, **limits}], words, id=f"errors of {limits}")
        for limits, words in (
            ({"max": "1"}, "must be below 1"),
            ({"max": "-0.1"}, "must be between 0 and 1"),
            ({"min": "2", **COMPARED}, "must be between 0 and 1"),
        )
    ),
    *(
        pytest.param(
            METRICS, [{"name": "x", "builtin": kind, "min": "0"}], "bad when they are high", id=kind
        )
        for kind in ("ErrorRate", "LatencyP95", "TimeToFirstTokenP95", "Restarts")
    ),
    pytest.param(
        METRICS,
        [{"name": "x", "builtin": "TokensPerSecond", "max": "9"}],
        "bad when they are low",
        id="too fast a model",
    ),
    pytest.param(
        METRICS,
        [{"name": "x", "goldenPrompts": GOLDEN["goldenPrompts"], "max": "1"}],
        "bad when they are low",
        id="too good a model",
    ),
    pytest.param(
        METRICS,
        [{"name": "x", "builtin": "LatencyP95", "max": "-1"}],
        "must be at least 0",
        id="an answer before the question",
    ),
    pytest.param(
        METRICS,
        [{"name": "x", "builtin": "LatencyP95", "min": "2", "max": "1"}],
        "min must not be above max",
        id="contradicting limits",
    ),
    pytest.param(
        METRICS, [{**ERRORS, "comparedWith": "Stable"}], "belong together", id="how much worse?"
    ),
    pytest.param(
        METRICS, [{**ERRORS, "maxRegressionPercent": 5}], "belong together", id="worse than what?"
    ),
    pytest.param(
        METRICS, [{**ERRORS, "better": "Lower"}], "for query only", id="better known than said"
    ),
    pytest.param(
        METRICS,
        [{**GOLDEN, "goldenPrompts": {"configMapRef": {"name": "g"}, "match": "Judge"}}],
        "match Judge needs judge",
        id="no judge",
    ),
    pytest.param(
        METRICS, [{**ERRORS, "name": f"m{i}"} for i in range(17)], "metrics", id="too many metrics"
    ),
    pytest.param("spec.rollout.speed", 4, "unknown field", id="a field that is not"),
    pytest.param("metadata.name", "a" * 46, "at most 45", id="too long a name"),
]


@pytest.mark.parametrize(("path", "value"), ACCEPTED)
def test_the_api_server_takes(control_plane: ControlPlane, path: str, value: object) -> None:
    try_to_create(control_plane, changed(MDEP, path, value))


@pytest.mark.parametrize(("path", "value", "words"), REFUSED)
def test_the_api_server_refuses(
    control_plane: ControlPlane, path: str, value: object, words: str
) -> None:
    with pytest.raises(StepError) as refused:
        try_to_create(control_plane, changed(MDEP, path, value))
    assert words in str(refused.value)


def test_contradictions_between_sections_are_refused(control_plane: ControlPlane) -> None:
    adapter = changed(MDEP, "spec", EVERYTHING)
    files = changed(adapter, "spec.source", {"uri": "s3://acme/a/", "digest": DIGEST})
    with pytest.raises(StepError, match="needs a ModelVersion"):
        try_to_create(control_plane, files)
    single = changed(changed(adapter, "spec.replicas", 1), "spec.autoscaling", None)
    with pytest.raises(StepError, match=r"NoSurge needs replicas of at least 2"):
        try_to_create(control_plane, single)
    lone = changed(adapter, "spec.autoscaling.minReplicas", 1)
    with pytest.raises(StepError, match=r"autoscaling\.minReplicas of at least 2"):
        try_to_create(control_plane, lone)
    copied = changed(adapter, STEPS, [{"weight": 0, "mirrorPercent": 5}])
    with pytest.raises(StepError, match="a Gateway does not mark its copies"):
        try_to_create(control_plane, copied)
    try_to_create(control_plane, changed(copied, "spec.routing", {}))
    try_to_create(control_plane, changed(copied, "spec.conversationLog", None))
    scaled = changed(
        changed(changed(MDEP, "spec.replicas", 2), "spec.rollout.capacity", {"mode": "NoSurge"}),
        "spec.autoscaling",
        {"maxReplicas": 4, "targetCpuPercent": 80},
    )
    with pytest.raises(StepError, match=r"autoscaling\.minReplicas of at least 2"):
        try_to_create(control_plane, scaled)
