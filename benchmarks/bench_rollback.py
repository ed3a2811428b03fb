"""What a canary costs that answers every request with 500, beside Argo Rollouts.

``make bench-rollback``; needs the native cluster, and brings it up unless it is. As in the peer's
run: 4 replicas, 25 % of 40 requests a second, a sample every 5 s, the third failed one ends it.
Engines are stand-ins; fetcher, sidecar, router and operator are real. Two runs: one by samples
alone, as the peer knows no other way, and one with failFast as it is by default.

The peer knows no least number of requests for a sample; ten is the fewest that says something of a
rate of 5 %. Exits with 1 when a figure of either run is above half of the peer's, or when stable
failed a request.
"""

import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy import demo
from deploy.artifact import upload
from deploy.cluster import Cluster, choose_cluster
from deploy.display import console
from deploy.kubectl import Kubectl, Manifest
from deploy.load import Answer, failures
from deploy.rollout_status import DeploymentStatus, parse_status
from deploy.settings import Settings, read_settings
from deploy.shell import Log, StepError
from deploy.standin.fleet import Fleet, ensure_engine, make_namespace
from deploy.storage import BUCKET, Storage

NAMESPACE = "bench-rollback"
NAME = "chat"
RATE = 40.0
REPLICAS = 4
STABLE_SECONDS = 240
VERDICT_SECONDS = 150
AFTERWARDS_SECONDS = 3.0
POLL_SECONDS = 0.25
SHARE_OF_PEER = 0.5
ROLLOUT: Manifest = {
    # Longer than any verdict takes: nothing is promoted here.
    "steps": [{"weight": 25, "holdSeconds": 120}],
    "analysis": {
        "intervalSeconds": 5,
        "failureLimit": 3,
        "minRequests": 10,
        "metrics": [{"name": "error-rate", "builtin": "ErrorRate", "max": "0.05"}],
    },
}
OFF = {"consecutiveErrors": 0, "restarts": 0}
DEFAULTS = {"consecutiveErrors": 20, "restarts": 2}


@dataclass(frozen=True)
class Cost:
    """What a bad canary cost the clients."""

    detected: float
    """Seconds from the first bad answer to the verdict."""
    restored: float
    """Seconds from the verdict to the last bad answer; 0 if none came after it."""
    bad: int
    failed_by_stable: int = 0
    """Failures that the canary did not answer."""
    example: str = ""
    """What the first of those was."""
    reason: str = ""


# Argo Rollouts 1.9 with a router of weights, on such a cluster with two cores.
PEER = Cost(detected=14.4, restored=0.8, bad=173)


def cost(answers: Sequence[Answer], canary: str, verdict: float, reason: str = "") -> Cost:
    """Work out the cost; ``verdict`` is on the clock of ``time.monotonic``.

    Raises ``StepError`` when no client got a bad answer: then there was nothing to detect.
    """
    bad = [a for a in failures(answers) if a.revision == canary]
    others = [a for a in failures(answers) if a.revision != canary]
    if not bad:
        raise StepError(f"{canary} gave no bad answer", "look at: kubectl get mdep -A")
    came = [a.sent + a.seconds for a in bad]
    return Cost(
        detected=verdict - min(came),
        restored=max(0.0, max(came) - verdict),
        bad=len(bad),
        failed_by_stable=len(others),
        example=f"{others[0].code} after {others[0].seconds:.2f} s {others[0].trouble}"
        if others
        else "",
        reason=reason,
    )


def misses(sampled: Cost, fast: Cost) -> list[str]:
    """Return what is above half of the peer's, and every failure of stable."""
    judged = []
    for name, run in (("by samples", sampled), ("with failFast", fast)):
        judged += [
            (f"verdict, {name}", run.detected, PEER.detected),
            (f"way back, {name}", run.restored, PEER.restored),
            (f"bad answers, {name}", float(run.bad), float(PEER.bad)),
        ]
    found = [
        f"{what}: {value:.2f}, at most {peer * SHARE_OF_PEER:.2f} were promised"
        for what, value, peer in judged
        if value > peer * SHARE_OF_PEER
    ]
    for name, run in (("by samples", sampled), ("with failFast", fast)):
        if run.failed_by_stable:
            found.append(f"{run.failed_by_stable} requests failed on stable, {name}: {run.example}")
    return found


def table(sampled: Cost, fast: Cost) -> str:
    """Give both runs beside the peer's, with ratios to it."""
    rows = [
        ("first bad answer to verdict (s)", sampled.detected, fast.detected, PEER.detected),
        ("verdict to last bad answer (s)", sampled.restored, fast.restored, PEER.restored),
        ("bad answers", sampled.bad, fast.bad, PEER.bad),
    ]
    head = ("by samples", "ratio", "with failFast", "ratio", "Argo Rollouts 1.9")
    lines = [f"{'':33}{head[0]:>11}{head[1]:>7}{head[2]:>15}{head[3]:>7}{head[4]:>19}"]
    for what, one, other, peer in rows:
        form = ".0f" if isinstance(one, int) else ".2f"
        lines.append(
            f"{what:33}{one:>11{form}}{one / peer:>7.2f}{other:>15{form}}{other / peer:>7.2f}"
            f"{peer:>19{form}}"
        )
    stable = (sampled.failed_by_stable, fast.failed_by_stable)
    lines.append(f"{'failures on stable':33}{stable[0]:>11}{'':7}{stable[1]:>15}{'':7}{'-':>19}")
    lines.append(f"{'reason':33}{sampled.reason:>18}{fast.reason:>22}")
    return "\n".join(lines)


def until(
    fleet: Fleet, what: str, seconds: float, reached: Callable[[DeploymentStatus], bool]
) -> DeploymentStatus:
    """Wait for a status that has seen the spec as it is now. Raises ``StepError`` if none comes."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        body = fleet.body(NAME)
        status = parse_status(body)
        if status.observed_generation == body["metadata"]["generation"] and reached(status):
            return status
        time.sleep(POLL_SECONDS)
    raise StepError(
        f"waited {seconds:.0f} s in vain for {what}", f"kubectl describe mdep {NAME} -n {NAMESPACE}"
    )


def is_settled(status: DeploymentStatus) -> bool:
    """Whether stable serves and nothing is being rolled out."""
    return status.phase == "Stable" and status.rollout is None and status.canary is None


def run(fleet: Fleet, name: str, fail_fast: dict[str, int]) -> Cost:
    """Offer a canary that fails every request, and see what it costs."""
    rollout = {**ROLLOUT, "failFast": fail_fast}
    fleet.apply(NAME, {"ANSWER": "good"}, replicas=REPLICAS, rollout=rollout)
    before = until(fleet, "stable to serve", STABLE_SECONDS, is_settled).last_revision
    names: list[str] = []

    def is_rolled_back(status: DeploymentStatus) -> bool:
        if status.canary is not None and status.canary.revision > before:
            names.append(status.canary.name)
        rollback = status.last_rollback
        is_it = rollback is not None and rollback.from_revision > before
        return is_it and status.rollout is None

    print(f"[bench] {name}: offering a canary that answers 500 to everybody", flush=True)
    bad = {"ANSWER": name, "ERROR_PERCENT": "100"}
    with fleet.load(NAME, RATE) as load:
        fleet.apply(NAME, bad, replicas=REPLICAS, rollout=rollout)
        status = until(fleet, "the rollback", VERDICT_SECONDS, is_rolled_back)
        time.sleep(AFTERWARDS_SECONDS)
    rollback = status.last_rollback
    assert rollback is not None
    # One machine, two clocks: the operator's is the wall's.
    verdict = rollback.time.timestamp() - time.time() + time.monotonic()
    return cost(load.answers, names[-1], verdict, rollback.reason)


def make_fleet(cluster: Cluster, settings: Settings) -> Fleet:
    """Make an empty namespace and a model, which the stand-in does not read, in S3."""
    log = Log(settings.logs / "bench-rollback.log")
    kubectl = Kubectl(cluster, log)
    kubectl.run("delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=180s")
    make_namespace(kubectl, NAMESPACE)
    prefix = f"{NAMESPACE}/model/"
    with Storage(cluster).client(log) as s3, tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.txt"
        file.write_text("The stand-in says what its variables say.\n")
        digest = upload(s3, prefix, [file], log)
    source = {"uri": f"s3://{BUCKET}/{prefix}", "digest": digest}
    return Fleet(kubectl, NAMESPACE, ensure_engine(cluster, log), source)


def main() -> int:
    """Run both and judge."""
    settings = read_settings()
    try:
        cluster, why = choose_cluster(settings)
        if cluster.name != "native":
            raise StepError(f"the cluster is {cluster.name} ({why}), not native", "CLUSTER=native")
        if not demo.prepare(cluster, settings, operator=True):
            return 1
        fleet = make_fleet(cluster, settings)
        try:
            sampled = run(fleet, "by samples", OFF)
            fast = run(fleet, "with failFast", DEFAULTS)
        finally:
            fleet.kubectl.run("delete", "namespace", NAMESPACE, "--wait=false")
    except StepError as error:
        console.print(f"[red]{error}[/]\nwhat to do: {error.hint}")
        return 1
    print(table(sampled, fast))
    missed = misses(sampled, fast)
    for one in missed:
        print(f"MISSED  {one}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
