"""Roll-outs under constant load on a real cluster: what a bad canary costs, and who notices.

The engine is a stand-in that misbehaves on request (deploy/standin); one test serves a trained
model with the real llama-server. Stable must not fail a single request in any of them.
"""

import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deploy.load import Answer, ask, by_revision, failures, question
from deploy.native.buildah import Buildah
from deploy.native.roots import PROMETHEUS
from deploy.standin.fleet import ensure_engine
from deploy.storage import BUCKET
from tests.e2e.lab import Lab, Manifest, Say, until
from tests.e2e.rollouts import Deployments
from tunesmith_api.deploymentstatus import ModelDeploymentStatus, RollbackReason

pytestmark = [pytest.mark.e2e, pytest.mark.needs_operator, pytest.mark.timeout(600)]

NAMESPACE = "e2e-rollouts"
NAME = "chat"
RANKS = {4: "tiny", 8: "other"}
"""Of the adapters that are trained, with the job of each."""
LATENCY = {"name": "latency-p95", "builtin": "LatencyP95", "max": "1"}
QUALITY = {"name": "quality", "goldenPrompts": {"configMapRef": {"name": "golden"}}, "min": "0.9"}


@pytest.fixture(scope="module")
def source(lab: Lab, begin_with_the_example: Callable[[], None]) -> Iterator[Manifest]:
    """Train a tiny model, and adapters for other tests; give its artifacts by their formats."""
    lab.kubectl.run("delete", "namespace", NAMESPACE, "--ignore-not-found", "--wait")
    lab.make_namespace(NAMESPACE)
    artifacts = {"tiny": ["Merged", "GGUF", "Adapter"], "other": ["Adapter"]}
    # All now, and not when stable is being watched.
    for rank, name in RANKS.items():
        method = {"lora": {"rank": rank}}
        lab.submit(NAMESPACE, name, method=method, output={"artifacts": artifacts[name]})
    for name in RANKS.values():
        lab.wait_for(NAMESPACE, name, "Complete")
    begin_with_the_example()
    version = lab.kubectl.get("modelversion", "tiny-v1", NAMESPACE)
    assert version is not None
    files = {a["format"]: a for a in version["spec"]["artifacts"]}
    yield {name: {"uri": a["uri"], "digest": a["digest"]} for name, a in files.items()}
    lab.kubectl.run("delete", "namespace", NAMESPACE, "--wait=false")


@pytest.fixture(scope="module")
def fleet(lab: Lab, source: Manifest) -> Deployments:
    image = ensure_engine(lab.cluster, lab.log)
    return Deployments(lab.kubectl, NAMESPACE, image, source["Merged"])


@pytest.fixture(scope="module")
def stable(fleet: Deployments, lab: Lab) -> str:
    """A deployment that serves, for canaries to fail beside, and what it answers."""
    metadata = {"name": "golden", "namespace": NAMESPACE}
    prompts = {"prompts.jsonl": '{"prompt": "How are you?", "answer": "good"}'}
    lab.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": prompts})
    fleet.apply(NAME, {"ANSWER": "good"})
    fleet.wait_until_stable(NAME, 1)
    return NAME


def offer(
    fleet: Deployments, misbehaviour: dict[str, str], rules: Manifest
) -> ModelDeploymentStatus:
    """Offer a canary and wait until it is rolled back and the answers are all stable's again."""
    before = fleet.status(NAME).last_revision
    fleet.apply(NAME, {"ANSWER": "good", **misbehaviour}, rollout=rules)
    until(lambda: fleet.status(NAME).last_revision > before or None, 90, "the roll-out", 0.1)
    fleet.wait_for_phase(NAME, "RolledBack", seconds=180)
    time.sleep(1)
    return fleet.status(NAME)


def of_stable(fleet: Deployments, answers: list[Answer]) -> list[Answer]:
    stable = fleet.status(NAME).stable
    assert stable is not None
    return [a for a in answers if a.revision in ("", stable.name)]


@pytest.mark.parametrize(
    ("misbehaviour", "rules", "reasons", "most_bad", "seconds"),
    [
        pytest.param(
            {"ERROR_PERCENT": "100"},
            {},
            {RollbackReason.CONSECUTIVE_ERRORS, RollbackReason.ANALYSIS_FAILED},
            60,
            10,
            id="every answer is an error",
        ),
        pytest.param(
            {"ERROR_PERCENT": "50"},
            # Two failed samples, before the first interval is over.
            {"analysis": {"intervalSeconds": 30, "confirmSeconds": 1}},
            {RollbackReason.ANALYSIS_FAILED},
            120,
            25,
            id="every other answer is an error, which is confirmed early",
        ),
        pytest.param(
            {"DELAY_SECONDS": "2"}, {}, {RollbackReason.ANALYSIS_FAILED}, 0, 25, id="it is slow"
        ),
        pytest.param(
            {"ANSWER": "bad"},
            {"analysis": {"metrics": [QUALITY]}},
            {RollbackReason.ANALYSIS_FAILED},
            0,
            25,
            id="its answers are worse",
        ),
        pytest.param(
            {"CRASH_AFTER_SECONDS": "6"},
            # Its errors could be enough for a verdict before the second crash.
            {"analysis": {"metrics": [LATENCY]}},
            {RollbackReason.CRASH_LOOPING, RollbackReason.CANARY_UNHEALTHY},
            40,  # what comes between a crash and the router's next look
            60,
            id="it crashes again and again",
        ),
        pytest.param(
            {"LOAD_SECONDS": "NEVER"},
            {"readyTimeoutSeconds": 15},
            {RollbackReason.READY_TIMEOUT},
            0,
            25,
            id="it is never ready",
        ),
    ],
)
def test_a_bad_canary_is_rolled_back_and_stable_fails_nobody(
    fleet: Deployments,
    stable: str,
    misbehaviour: dict[str, str],
    rules: Manifest,
    reasons: set[RollbackReason],
    most_bad: int,
    seconds: int,
    say: Say,
) -> None:
    with fleet.load(stable) as load:
        status = offer(fleet, misbehaviour, rules)
        told = time.monotonic()
        time.sleep(2)
        after = load.since(told)
    rollback, answers = status.last_rollback, list(load.answers)
    assert rollback is not None
    say(
        f"{misbehaviour}: {rollback.reason} {rollback.metric}, detected after"
        f" {rollback.detected_after_seconds} s, restored after"
        f" {rollback.restored_after_milliseconds} ms; {len(answers)} sent,"
        f" {len(failures(answers))} failed, {rollback.requests_served_by_rejected} served by the"
        f" rejected revision, {by_revision(answers)}"
    )
    assert rollback.reason in reasons
    assert rollback.detected_after_seconds <= seconds
    assert rollback.restored_after_milliseconds is not None
    assert rollback.restored_after_milliseconds <= 500
    assert failures(of_stable(fleet, answers)) == []
    assert len(failures(answers)) <= most_bad
    assert failures(after) == []
    condition = fleet.condition(stable, "RolledBack")
    assert condition is not None
    assert condition.status == "True"
    assert fleet.condition(stable, "Ready").status == "True"  # type: ignore[union-attr]


def test_a_rejected_canary_is_not_tried_again_and_a_good_one_is_promoted(
    fleet: Deployments, stable: str
) -> None:
    before = fleet.status(stable)
    fleet.patch(stable, {"revisionHistoryLimit": 9})  # no change of the revision or its plan
    time.sleep(5)
    assert fleet.status(stable).last_revision == before.last_revision
    # In the dark step the canary answers nobody, so only copies can be what it is judged by.
    dark = {"weight": 0, "mirrorPercent": 50, "holdSeconds": 5}
    steps = [dark, {"weight": 25, "holdSeconds": 5}]
    with fleet.load(stable) as load:
        fleet.apply(stable, {"ANSWER": "better"}, rollout={"steps": steps})
        fleet.wait_until_stable(stable, before.last_revision + 1, seconds=180)
        time.sleep(2)
        answers = list(load.answers)
    assert failures(answers) == []
    status = fleet.status(stable)
    assert status.stable is not None
    assert status.phase == "Stable"
    assert by_revision(answers[-20:]) == {status.stable.name: 20}


@pytest.mark.kills_operator
def test_an_operator_that_is_killed_all_the_time_changes_nothing(
    fleet: Deployments, lab: Lab, stable: str, say: Say
) -> None:
    before = fleet.status(stable)

    with fleet.load(stable) as load:
        fleet.apply(stable, {"ANSWER": "best"})
        for _ in range(4):
            time.sleep(4)
            lab.kill_operator()
        fleet.wait_until_stable(stable, before.last_revision + 1, seconds=240)
        fleet.apply(stable, {"ERROR_PERCENT": "60"})
        fleet.wait_for_canary_traffic(stable)
        for _ in range(2):
            lab.kill_operator()
            time.sleep(6)
        fleet.wait_for_phase(stable, "RolledBack", seconds=180)
        time.sleep(2)
        answers = list(load.answers)
    assert failures(of_stable(fleet, answers)) == []
    rollback = fleet.status(stable).last_rollback
    assert rollback is not None
    say(f"operator killed: {rollback.model_dump_json(by_alias=True)}")
    assert failures(answers[-20:]) == []


def test_a_router_pod_that_ends_loses_nothing_and_one_that_is_killed_next_to_nothing(
    fleet: Deployments, lab: Lab, stable: str, say: Say
) -> None:
    selector = f"tunesmith.dev/deployment={stable},app.kubernetes.io/component=router"
    pods = [pod["metadata"]["name"] for pod in lab.kubectl.list_all("pods", NAMESPACE, selector)]
    assert len(pods) == 2
    with fleet.load(stable) as load:
        lab.kubectl.run("delete", "pod", pods[0], "-n", NAMESPACE)
        time.sleep(5)
        assert failures(list(load.answers)) == [], "an orderly end loses nothing"
        lab.kubectl.wait_for_rollout(f"{stable}-router", NAMESPACE, 200)
        killed = time.monotonic()
        lab.kubectl.run("delete", "pod", pods[1], "-n", NAMESPACE, "--grace-period=0", "--force")
        time.sleep(5)
    bad = [answer.sent - killed for answer in failures(list(load.answers))]
    say(f"router killed: {len(bad)} of {len(load.answers)} failed, seconds after: {bad}")
    # Besides what it was answering: what is sent to it until the node knows that it is gone.
    assert all(-1 < sent < 3 for sent in bad)
    assert len(bad) <= 20, "a second of its half of the load"


def test_a_trained_model_is_served_by_llama_cpp(
    fleet: Deployments, lab: Lab, source: Manifest
) -> None:
    engine = {"type": "LlamaCpp", "image": "", "env": []}
    fleet.apply("real", source=source["GGUF"], engine=engine)
    fleet.wait_until_stable("real", 1, seconds=300)
    with fleet.load("real", rate=5) as load:
        time.sleep(3)
    assert failures(list(load.answers)) == []
    lab.kubectl.run("delete", "mdep", "real", "-n", NAMESPACE, "--wait")
    selector = "tunesmith.dev/deployment=real"
    kinds = "deployments,pods,services,configmaps,poddisruptionbudgets"
    until(
        lambda: not lab.kubectl.list_all(kinds, NAMESPACE, selector) or None,
        300,
        "all of it to go",
    )


def logged(lab: Lab, prefix: str) -> str | None:
    """Give the lines of a conversation log, once there are any."""
    with lab.storage.client(lab.log) as s3:
        found = s3.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])
        bodies = [s3.get_object(Bucket=BUCKET, Key=one["Key"])["Body"].read() for one in found]
    return b"".join(bodies).decode() or None


def test_who_has_a_key_is_served_and_what_is_said_is_written_down_without_personal_data(
    fleet: Deployments, lab: Lab
) -> None:
    name, prefix = "guarded", f"e2e/said-{uuid.uuid4().hex[:8]}/"
    access = {"apiKeySecretRef": {"name": "clients", "key": "keys"}}
    metadata = {"name": "clients", "namespace": NAMESPACE}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata}
    lab.create({**secret, "stringData": {"keys": "key-of-ann\nkey-of-bob\n"}})
    log: Manifest = {"uri": f"s3://{BUCKET}/{prefix}", "flushSeconds": 1}
    fleet.apply(name, {"ANSWER": "good"}, access=access, conversationLog=log)
    fleet.wait_until_stable(name, 1)
    url, asked = fleet.url(name), question("How are you? Write to ann@example.org.")
    until(lambda: ask(url, asked, key="key-of-bob")[0].is_good or None, 20, "an answer")
    codes = [ask(url, asked, key=key)[0].code for key in ("", "key-of-eve", "key-of-ann")]
    assert codes == [401, 401, 200]
    text = until(lambda: logged(lab, f"{prefix}conversations/"), 30, "the conversations")
    assert "How are you?" in text
    assert "good" in text
    assert "ann@example.org" not in text
    lab.kubectl.run("delete", "mdep", name, "-n", NAMESPACE, "--wait")


@pytest.fixture
def prometheus(lab: Lab, fleet: Deployments) -> str:
    """Run a real Prometheus beside the pods that serve, and give its address."""
    builder = lab.cluster.builder
    assert isinstance(builder, Buildah), "its image is made of Debian's packages"
    builder.ensure_root(PROMETHEUS, lab.log)
    text = (Path(__file__).parent / "prometheus.yaml").read_text()
    lab.kubectl.apply(text, NAMESPACE=NAMESPACE, IMAGE=builder.full_name(PROMETHEUS))
    lab.kubectl.wait_for_rollout("prometheus", NAMESPACE, 300)
    return f"http://prometheus.{NAMESPACE}.svc.cluster.local:9090"


def test_prometheus_judges_a_canary(fleet: Deployments, stable: str, prometheus: str) -> None:
    before = fleet.status(stable)
    asked = 'sum(increase(tunesmith_serving_errors_total{revision="{{revision}}"}[10s]))'
    analysis = {
        "intervalSeconds": 10,
        "failureLimit": 1,
        "provider": {"type": "Prometheus", "prometheus": {"url": prometheus}},
        "metrics": [
            {"name": "latency", "builtin": "LatencyP95", "max": "5"},
            {"name": "errors", "query": asked, "max": "10"},
        ],
    }
    with fleet.load(stable) as load:
        rules = {"analysis": analysis, "failFast": {"consecutiveErrors": 0}}
        fleet.apply(stable, {"ANSWER": "p", "ERROR_PERCENT": "60"}, rollout=rules)
        until(
            lambda: fleet.status(stable).last_revision > before.last_revision or None,
            90,
            "the roll-out",
        )
        fleet.wait_for_phase(stable, "RolledBack", seconds=240)
    rollback = fleet.status(stable).last_rollback
    assert rollback is not None
    assert (rollback.reason, rollback.metric) == (RollbackReason.ANALYSIS_FAILED, "errors")
    assert failures(of_stable(fleet, list(load.answers))) == []


def test_vllm_is_started_and_drained_as_it_documents(fleet: Deployments, lab: Lab) -> None:
    """No GPU here: the stand-in takes vLLM's command line and speaks its API."""
    # Slow enough that there is always something in progress, also when a pod is deleted.
    engine = {"type": "VLLM", "env": [{"name": "DELAY_SECONDS", "value": "0.5"}]}
    fleet.apply("vllm", engine=engine, replicas=2)
    fleet.wait_until_stable("vllm", 1)
    pod, _ = lab.kubectl.list_all(
        "pods",
        NAMESPACE,
        "tunesmith.dev/deployment=vllm,app.kubernetes.io/component=engine",
    )
    container = next(c for c in pod["spec"]["containers"] if c["name"] == "engine")
    assert container["command"] == ["vllm", "serve"]
    assert "--served-model-name=vllm" in container["args"]
    with fleet.load("vllm", rate=20) as load:
        lab.kubectl.run("delete", "pod", pod["metadata"]["name"], "-n", NAMESPACE, "--wait")
        time.sleep(2)
    assert failures(list(load.answers)) == []
    lab.kubectl.run("delete", "mdep", "vllm", "-n", NAMESPACE, "--wait")


@pytest.fixture(scope="module")
def adapters(lab: Lab, fleet: Deployments) -> Deployments:
    """Give deployments of the adapters, as ModelVersions rank-4 and rank-8.

    The base model that they name is one that serving pods could load; the stand-in needs none.
    """
    for rank, job in RANKS.items():
        trained = lab.kubectl.get("modelversion", f"{job}-v1", NAMESPACE)
        assert trained is not None
        files = next(a for a in trained["spec"]["artifacts"] if a["format"] == "Adapter")
        base = {"uri": "hf://org/base", "revision": "main"}
        spec = {"model": "adapter", "version": str(rank), "artifacts": [files], "baseModel": base}
        metadata = {"name": f"rank-{rank}", "namespace": NAMESPACE}
        kind = {"apiVersion": trained["apiVersion"], "kind": "ModelVersion"}
        lab.create({**kind, "metadata": metadata, "spec": spec})
    return Deployments(lab.kubectl, NAMESPACE, fleet.image, {"modelVersion": "rank-4"})


def serving_pods(lab: Lab, name: str) -> dict[str, int]:
    """Give the restarts of each pod that serves a deployment, by its name."""
    selector = f"tunesmith.dev/deployment={name},app.kubernetes.io/component=engine"
    return {
        pod["metadata"]["name"]: sum(c["restartCount"] for c in pod["status"]["containerStatuses"])
        for pod in lab.kubectl.list_all("pods", NAMESPACE, selector)
    }


def test_a_canary_adapter_comes_and_goes_on_the_same_pods(
    adapters: Deployments, lab: Lab, say: Say
) -> None:
    name, engine = "adapters", {"type": "VLLM", "env": [{"name": "BAD_RANK", "value": "8"}]}
    spec = {"delivery": "Adapter", "engine": engine, "replicas": 2}
    adapters.apply(name, **spec)
    adapters.wait_until_stable(name, 1)
    before = serving_pods(lab, name)
    assert len(before) == 2
    with adapters.load(name) as load:
        adapters.apply(name, **spec, source={"modelVersion": "rank-8"})
        until(lambda: adapters.status(name).last_revision == 2 or None, 90, "the roll-out", 0.1)
        adapters.wait_for_phase(name, "RolledBack", seconds=240)
        told = time.monotonic()
        time.sleep(2)
        after = load.since(told)
    status, answers = adapters.status(name), list(load.answers)
    rollback = status.last_rollback
    assert rollback is not None
    say(
        f"adapter: {rollback.reason}, detected after {rollback.detected_after_seconds} s,"
        f" restored after {rollback.restored_after_milliseconds} ms; {len(answers)} sent,"
        f" {len(failures(answers))} failed, {by_revision(answers)}"
    )
    assert rollback.reason in {RollbackReason.CONSECUTIVE_ERRORS, RollbackReason.ANALYSIS_FAILED}
    assert rollback.requests_served_by_rejected > 0
    assert status.stable is not None
    of_the_stable = [a for a in answers if a.revision in ("", status.stable.name)]
    assert failures(of_the_stable) == []
    assert failures(after) == []
    assert serving_pods(lab, name) == before


def test_a_good_adapter_takes_over_on_the_same_pods(adapters: Deployments, lab: Lab) -> None:
    name, engine = "taken-over", {"type": "VLLM"}
    spec = {"delivery": "Adapter", "engine": engine}
    adapters.apply(name, **spec)
    adapters.wait_until_stable(name, 1)
    before = serving_pods(lab, name)
    with adapters.load(name) as load:
        adapters.apply(name, **spec, source={"modelVersion": "rank-8"})
        adapters.wait_until_stable(name, 2, seconds=180)
        time.sleep(8)  # longer than the former stable is kept warm
    answers = list(load.answers)
    assert failures(answers) == []
    assert len(by_revision(answers)) == 2
    assert serving_pods(lab, name) == before
    lab.kubectl.run("delete", "mdep", name, "adapters", "-n", NAMESPACE, "--wait")


def test_a_model_that_is_not_what_was_asked_for_is_refused(
    fleet: Deployments, stable: str, source: Manifest
) -> None:
    before = fleet.status(stable)
    wrong = {"uri": source["Merged"]["uri"], "digest": "sha256:" + "0" * 64}
    with fleet.load(stable, rate=10) as load:
        fleet.apply(stable, {"ANSWER": "wrong files"}, source=wrong)
        until(
            lambda: fleet.status(stable).last_revision > before.last_revision or None,
            90,
            "the roll-out",
        )
        fleet.wait_for_phase(stable, "RolledBack", seconds=240)
    rollback = fleet.status(stable).last_rollback
    assert rollback is not None
    assert rollback.reason is RollbackReason.MODEL_REFUSED
    assert "wanted is sha256:000" in rollback.message
    assert failures(list(load.answers)) == []
