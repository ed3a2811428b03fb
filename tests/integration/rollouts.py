"""ModelDeployments for integration tests, what is waited for, and what is compared at the end."""

import asyncio
import re
from collections.abc import Callable, Sequence
from typing import Any

from tests.integration.operators import Recorder, until, without_times
from tests.integration.serving import Network, ServingCluster
from tunesmith_api.router import ROUTER_STATE_PATH, RouterState
from tunesmith_operator.assembly import Operator
from tunesmith_operator.kube.client import KubeClient
from tunesmith_operator.kube.kinds import KINDS, Object
from tunesmith_operator.kube.transport import Interceptor, Request, Response
from tunesmith_operator.planning.routing import RouterAnswer
from tunesmith_operator.planning.serving import ServingPod

KIND = "ModelDeployment"
# As fast as the API allows: a sample a second.
ANALYSIS: dict[str, Any] = {
    "intervalSeconds": 1,
    "window": 3,
    "failureLimit": 1,
    "minRequests": 3,
    "dataTimeoutSeconds": 60,
    "metrics": [{"name": "error-rate", "builtin": "ErrorRate", "max": "0.2"}],
}
ROLLOUT: dict[str, Any] = {
    "steps": [{"weight": 20, "holdSeconds": 0}, {"weight": 50, "holdSeconds": 0}],
    "readyTimeoutSeconds": 60,
    "analysis": ANALYSIS,
    "rollback": {"keepStableWarmSeconds": 0, "fastTrackRevisions": 0},
}

# It stays at the last step until somebody approves, however slow whoever waits for that step is.
BY_HAND = ROLLOUT | {"approval": "Manual"}


def source(letter: str) -> Object:
    """Give a model by its digest."""
    return {"uri": f"s3://bucket/{letter}/", "digest": "sha256:" + letter * 64}


def deployment(namespace: str, **spec: Any) -> Object:
    return {
        "apiVersion": KINDS[KIND].api_version,
        "kind": KIND,
        "metadata": {"namespace": namespace, "name": "demo"},
        "spec": {"source": source("a"), "rollout": ROLLOUT, **spec},
    }


async def make_namespace(kube: KubeClient, name: str) -> str:
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    await kube._exchange(Request("create", "Namespace", "POST", "/api/v1/namespaces", {}, body))
    return name


async def change(kube: KubeClient, namespace: str, **spec: Any) -> None:
    """Merge ``spec`` into that of the deployment, as a user would."""
    await patch(kube, KIND, namespace, "demo", {"spec": spec})


async def approve(kube: KubeClient, namespace: str) -> None:
    """Let the roll-out that is in progress go past its last step."""
    digest = (await read(kube, namespace))["status"]["rollout"]["digest"]
    await change(kube, namespace, rollout={"approvedDigest": digest})


async def patch(kube: KubeClient, kind: str, namespace: str, name: str, body: Object) -> Object:
    path = KINDS[kind].path(namespace, name)
    content_type = "application/merge-patch+json"
    return kube._shown(
        kind, await kube._exchange(Request("patch", kind, "PATCH", path, {}, body, content_type))
    )


async def read(kube: KubeClient, namespace: str) -> Object:
    body = await kube.get(KIND, namespace, "demo")
    assert body is not None
    return body


async def until_status(
    kube: KubeClient,
    namespace: str,
    holds: Callable[[Object], Any],
    what: str,
    seconds: float = 240,
) -> Object:
    """Wait until the deployment's status is such and return the deployment."""

    async def look() -> Object | None:
        body = await kube.get(KIND, namespace, "demo")
        return body if body and holds(body.get("status") or {}) else None

    try:
        # Many runs side by side ask; none is in a hurry.
        found: Object = await until(look, seconds, what, every=0.25)
    except AssertionError as error:
        raise AssertionError(f"{error}: {(await read(kube, namespace)).get('status')}") from None
    return found


async def until_stable(kube: KubeClient, namespace: str, revision: int) -> Object:
    """Wait until that revision is stable, alone, ready and all is said of the newest spec."""

    def holds(status: Object) -> bool:
        stable = status.get("stable") or {}
        is_whole = stable.get("weight") == 100 and condition_of(status, "Ready")[0] == "True"
        is_at_rest = is_whole and "rollout" not in status and "previous" not in status
        return is_at_rest and stable["revision"] == revision

    return await until_status(kube, namespace, holds, f"revision {revision} to be stable")


async def until_canary_has(kube: KubeClient, namespace: str, percent: int) -> Object:
    """Wait until the canary was seen with that share of the requests."""
    return await until_status(
        kube,
        namespace,
        lambda s: (s.get("canary") or {}).get("weight") == percent,
        f"the canary to have {percent} %",
    )


async def until_rolled_back(kube: KubeClient, namespace: str) -> Object:
    """Wait until a rollback is over."""

    def holds(status: Object) -> bool:
        return condition_of(status, "RolledBack")[0] == "True" and "rollout" not in status

    return await until_status(kube, namespace, holds, "the rollback")


async def until_pods(kube: KubeClient, namespace: str, number: int) -> Object:
    """Wait until the status says that so many pods are asked for."""
    return await until_status(
        kube, namespace, lambda s: s.get("replicas") == number, f"{number} pods"
    )


def condition_of(status: Object, kind: str) -> tuple[str, str, str]:
    """Give status, reason and message of a condition."""
    found = next((c for c in status.get("conditions") or () if c["type"] == kind), {})
    return found.get("status", ""), found.get("reason", ""), found.get("message", "")


def weights(network: Network, pod: str = "") -> list[tuple[str, str, int]]:
    """Give the splits that the routers were told, in order, without repetitions."""
    told = [p.state.split for p in network.puts if not pod or p.pod == pod]
    splits = [(s.main, s.canary or "", s.weight) for s in told]
    return [s for n, s in enumerate(splits) if n == 0 or splits[n - 1] != s]


_MEASURED = frozenset(
    {
        "requestsServedByRejected",
        "restoredAfterMilliseconds",
        "detectedAfterSeconds",
        "until",
        "uid",
        "value",
        "selector",
        "url",
    }
)


async def end_state(kube: KubeClient, namespace: str) -> Object:
    """All that is left at the end, without what may differ between two runs."""
    body = await read(kube, namespace)
    return {
        "status": _without_measured(without_times(body["status"])),
        "records": sorted(await _names(kube, "ConfigMap", namespace)),
        "services": sorted(await _names(kube, "Service", namespace)),
        "workloads": {
            w["metadata"]["name"]: w["spec"]["replicas"]
            for w in await kube.list("Deployment", namespace)
        },
    }


async def _names(kube: KubeClient, kind: str, namespace: str) -> list[str]:
    found = [o["metadata"]["name"] for o in await kube.list(kind, namespace)]
    return [name for name in found if name != "kube-root-ca.crt"]


def _without_measured(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {k: _without_measured(v) for k, v in value.items() if k not in _MEASURED}
        text = {k: re.sub(r"[0-9.]+", "N", str(v)) for k, v in kept.items() if k == "message"}
        return kept | text
    return [_without_measured(v) for v in value] if isinstance(value, list) else value


async def until_events(kube: KubeClient, namespace: str, reason: str) -> list[Object]:
    """Wait until there is an Event with that reason."""

    async def look() -> list[Object]:
        return [e for e in await kube.list("Event", namespace) if e["reason"] == reason]

    found: list[Object] = await until(look, what=f"an Event {reason}")
    return found


async def passes(running: Operator, number: int, kind: str = KIND) -> None:
    """Have an operator look at everything that often."""
    for _ in range(number):
        for own in running.cache.all_own(kind):
            running.queue.add(own.key)
        await running._resync()

        async def is_idle() -> bool:
            return running.queue.is_idle

        await until(is_idle, what="the passes to end")


async def until_quiet(
    running: Operator, recorder: Recorder, kind: str = KIND, cluster: ServingCluster | None = None
) -> None:
    """Have an operator look at everything until that makes it write nothing, twice in a row.

    What ``cluster`` has still to say of its pods is waited for. Fails if it always writes.
    """
    quiet = 0

    async def is_quiet() -> bool:
        nonlocal quiet
        recorder.writes.clear()
        await passes(running, 1, kind)
        # Time for the events of what it has written, and for pods that change by it.
        await asyncio.sleep(0.4)
        if cluster is not None:
            await cluster.turn()
        quiet = 0 if recorder.writes else quiet + 1
        return quiet == 2

    await until(is_quiet, what="an operator without anything to write")


class Tells:
    """Lets an interceptor see what is told to routers as it sees the other writes."""

    def __init__(self, running: Operator, interceptor: Interceptor) -> None:
        self._tell = running.routers.tell
        self._interceptor = interceptor
        running.routers.tell = self  # type: ignore[method-assign, assignment]

    async def __call__(
        self, uid: str, pods: Sequence[ServingPod], state: RouterState
    ) -> list[RouterAnswer]:
        answers: list[RouterAnswer] = []

        async def send(_: Request) -> Response:
            answers.extend(await self._tell(uid, pods, state))
            return Response(200)

        await self._interceptor(Request("tell", "Router", "PUT", ROUTER_STATE_PATH), send)
        return answers


async def until_told(network: Network, puts: int) -> None:
    """Wait until routers have taken so many states."""

    async def are_told() -> bool:
        return len(network.puts) >= puts

    await until(are_told, what=f"put {puts} of a state to a router")


async def until_all_told(cluster: ServingCluster, number: int = 2) -> None:
    """Wait until so many routers serve."""

    async def are_told() -> bool:
        routers = cluster.routers()
        return len(routers) == number and all(router.state for router in routers)

    await until(are_told, what="all routers to be told")
