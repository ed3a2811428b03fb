"""Runs operators against the real API server, and plays the kubelet and the Job controller.

There is no node behind the API server, so ``FakeCluster`` makes each Job's pod and lets it end as
a test wants. Faults are interceptors of the operator's own connection, see kube/transport.py.
"""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import orjson

from deploy.native.apiserver import ControlPlane
from tests.integration.calls import create_namespace
from tests.simulation.training_parts import DIGEST, MERGED
from tunesmith_api.attempts import StageName
from tunesmith_api.measurements import Measurement
from tunesmith_api.result import Outcome, TrainerResult
from tunesmith_operator.assembly import Operator
from tunesmith_operator.config import Config, LeaderElection
from tunesmith_operator.kube.client import KubeClient
from tunesmith_operator.kube.connection import connect
from tunesmith_operator.kube.errors import AlreadyExists, Gone, Unavailable
from tunesmith_operator.kube.kinds import KINDS, Object
from tunesmith_operator.kube.parse import INDEX_ANNOTATION
from tunesmith_operator.kube.transport import Interceptor, Request, Response, Send, Wire

QUICK_ELECTION = LeaderElection(
    lease_duration_seconds=3, renew_deadline_seconds=2, retry_period_seconds=0.4
)
PATIENT_ELECTION = LeaderElection(
    lease_duration_seconds=120, renew_deadline_seconds=60, retry_period_seconds=0.5
)
"""Nobody loses this Lease by being slow."""
NO_ELECTION = LeaderElection(enabled=False)
_numbers = iter(range(10**6))


def make_namespace(plane: ControlPlane) -> str:
    name = f"t{next(_numbers)}-{random.randrange(16**6):06x}"
    create_namespace(plane, name)
    return name


def job(namespace: str, name: str = "demo", **spec: Any) -> Object:
    return {
        "apiVersion": KINDS["FineTuneJob"].api_version,
        "kind": "FineTuneJob",
        "metadata": {"namespace": namespace, "name": name},
        "spec": {
            "model": {"uri": "builtin://tiny"},
            "dataset": {"train": {"uri": "s3://bucket/data.jsonl"}},
            "output": {"uri": "s3://bucket/models/"},
            "compute": {"gpusPerNode": 0},
            **spec,
        },
    }


@contextlib.asynccontextmanager
async def client_of(plane: ControlPlane) -> AsyncIterator[KubeClient]:
    connection = await connect(plane.kubeconfig)
    try:
        yield KubeClient(Wire(connection))
    finally:
        await connection.close()


@contextlib.asynccontextmanager
async def operator(
    plane: ControlPlane,
    namespace: str,
    interceptors: Sequence[Interceptor] = (),
    election: LeaderElection = NO_ELECTION,
    **settings: Any,
) -> AsyncIterator[Operator]:
    """Run an operator in this process, over one namespace."""
    config = Config(
        trainer_image="trainer:1",
        namespaces=(namespace,),
        probe_port=0,
        leader_election=election.model_copy(update={"namespace": namespace}),
        progress_seconds=0.5,
        **settings,
    )
    running = Operator(config, await connect(plane.kubeconfig), interceptors, router_key="key")
    task = asyncio.create_task(running.run())
    try:
        yield running
    finally:
        running.stop.set()
        await asyncio.wait_for(task, 60)


async def until(
    condition: Callable[[], Awaitable[Any]],
    seconds: float = 90,
    what: str = "it",
    every: float = 0.1,
) -> Any:
    """Wait until ``condition`` gives something true and return that.

    What is waited for usually comes in a second; the rest is for machines that do much else.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        result = await condition()
        if result:
            return result
        await asyncio.sleep(every)
    raise AssertionError(f"{what} did not happen in {seconds} s")


def condition(body: Object | None, kind: str) -> str:
    conditions = ((body or {}).get("status") or {}).get("conditions") or ()
    return next((c["status"] for c in conditions if c["type"] == kind), "")


async def until_ended(kube: KubeClient, namespace: str, name: str = "demo") -> Object:
    """Wait until the job is Complete or Failed and return it."""

    async def ended() -> Object | None:
        body = await kube.get("FineTuneJob", namespace, name)
        is_over = "True" in (condition(body, "Complete"), condition(body, "Failed"))
        return body if is_over else None

    found: Object = await until(ended, 120, "the end of the job")
    return found


async def patch_status(
    kube: KubeClient, kind: str, namespace: str, name: str, status: Object
) -> None:
    path = KINDS[kind].path(namespace, name, "status")
    content_type = "application/merge-patch+json"
    body = {"status": status}
    await kube._exchange(Request("patch", kind, "PATCH", path, {}, body, content_type))


class FakeCluster:
    """The Job controller and the kubelet of a namespace: every pod succeeds."""

    def __init__(self, kube: KubeClient, namespace: str) -> None:
        self._kube = kube
        self._namespace = namespace
        self._done: set[str] = set()

    async def run(self) -> None:
        while True:
            # As every controller does: what fails is tried again.
            with contextlib.suppress(Unavailable, Gone):
                await self._finish_all()
            await asyncio.sleep(0.1)

    async def _finish_all(self) -> None:
        for found in await self._kube.list("Job", self._namespace):
            uid = found["metadata"]["uid"]
            if uid not in self._done and "deletionTimestamp" not in found["metadata"]:
                await self._finish(found)
                self._done.add(uid)

    async def _finish(self, found: Object) -> None:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        for index in range(found["spec"]["completions"]):
            await self._run_pod(found, index, now)
        done = [
            {"type": kind, "status": "True", "lastTransitionTime": now, "lastProbeTime": now}
            for kind in ("SuccessCriteriaMet", "Complete")
        ]
        succeeded = found["spec"]["completions"]
        await patch_status(
            self._kube,
            "Job",
            self._namespace,
            found["metadata"]["name"],
            {"conditions": done, "startTime": now, "completionTime": now, "succeeded": succeeded},
        )

    async def _run_pod(self, found: Object, index: int, now: str) -> None:
        meta, template = found["metadata"], found["spec"]["template"]
        name = f"{meta['name']}-{index}-abcde"
        owner = {"apiVersion": "batch/v1", "kind": "Job", "name": meta["name"], "uid": meta["uid"]}
        with contextlib.suppress(AlreadyExists):
            await self._kube.create(
                {
                    "apiVersion": "v1",
                    "kind": "Pod",
                    "metadata": {
                        "namespace": self._namespace,
                        "name": name,
                        "labels": template["metadata"]["labels"],
                        "annotations": {INDEX_ANNOTATION: str(index)},
                        "ownerReferences": [{**owner, "controller": True}],
                    },
                    "spec": {k: v for k, v in template["spec"].items() if k != "serviceAccount"},
                }
            )
        ended = {"exitCode": 0, "reason": "Completed", "message": result_of(meta["labels"])}
        times = {"startedAt": now, "finishedAt": now}
        container = template["spec"]["containers"][0]["name"]
        state = {
            "name": container,
            "image": "i",
            "imageID": "i",
            "ready": False,
            "restartCount": 0,
            "state": {"terminated": ended | times},
        }
        await patch_status(
            self._kube,
            "Pod",
            self._namespace,
            name,
            {"phase": "Succeeded", "containerStatuses": [state]},
        )


def result_of(labels: dict[str, str]) -> str:
    """The termination message of a pod that did all it should."""
    stage = StageName(labels["tunesmith.dev/stage"])
    is_train = stage is StageName.TRAIN
    loss = Measurement(metric="heldout/loss", value="1.5", base_value="2.0")
    return TrainerResult(
        stage=stage,
        attempt=int(labels["tunesmith.dev/attempt"]),
        outcome=Outcome.SUCCEEDED,
        reason="Trained" if is_train else "Prepared",
        message="Done.",
        dataset_digest=DIGEST,
        measurements=(loss,) if is_train else (),
        artifacts=(MERGED,) if is_train else (),
        report_uri="s3://bucket/r.json" if is_train else "",
        report_digest=DIGEST if is_train else None,
    ).model_dump_json(by_alias=True)


@contextlib.asynccontextmanager
async def fake_cluster(kube: KubeClient, namespace: str) -> AsyncIterator[None]:
    task = asyncio.create_task(FakeCluster(kube, namespace).run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def run_until_killed(
    plane: ControlPlane, kube: KubeClient, namespace: str, killer: "Killer"
) -> None:
    """Run an operator until ``killer`` strikes, or the job ends without so many writes.

    A pass more or less makes some runs shorter than others.
    """
    async with operator(plane, namespace, [killer]):
        ended = asyncio.create_task(until_ended(kube, namespace))
        died = asyncio.create_task(killer.dead.wait())
        await asyncio.wait([ended, died], return_when=asyncio.FIRST_COMPLETED)
        ended.cancel()
        died.cancel()


def counts(request: Request) -> bool:
    """Whether a call changes what the end state is made of."""
    return request.is_write and request.kind not in ("Event", "Lease")


@dataclass
class Recorder:
    """Notes each write."""

    writes: list[str] = field(default_factory=list)

    async def __call__(self, request: Request, send: Send) -> Response:
        if counts(request):
            self.writes.append(f"{request.verb} {request.kind}")
        return await send(request)


@dataclass
class Killer:
    """Kills the operator before or after its n-th write: from then on nothing gets through."""

    at: int
    is_after: bool
    of: str = ""
    """Verb and kind of the writes that count; empty: all."""
    dead: asyncio.Event = field(default_factory=asyncio.Event)
    seen: int = 0

    async def __call__(self, request: Request, send: Send) -> Response:
        is_meant = self.of in ("", f"{request.verb} {request.kind}")
        if not self.dead.is_set() and counts(request) and is_meant:
            self.seen += 1
            if self.seen == self.at:
                if self.is_after:
                    await send(request)
                self.dead.set()
        if self.dead.is_set():
            raise Unavailable("the operator is dead")
        return await send(request)


@dataclass
class LosesAnswers:
    """Every write is carried out, and the answer of its first sending is lost."""

    _seen: list[Request] = field(default_factory=list)
    """Those that were lost, not only the last one: writes are sent side by side."""

    @property
    def lost(self) -> int:
        """How many answers were lost."""
        return len(self._seen)

    async def __call__(self, request: Request, send: Send) -> Response:
        answer = await send(request)
        if counts(request) and not any(request is seen for seen in self._seen):
            self._seen.append(request)
            raise TimeoutError("the answer was lost")
        return answer


@dataclass
class Errors:
    """A share of all calls fails in one of the usual ways."""

    share: float
    rng: random.Random
    failed: int = 0

    async def __call__(self, request: Request, send: Send) -> Response:
        if self.rng.random() >= self.share:
            return await send(request)
        self.failed += 1
        kind = self.rng.choice([409, 429, 500, 503, 0, 1])
        if kind == 0:
            raise ConnectionResetError("reset")
        if kind == 1:
            await send(request)
            raise ConnectionResetError("reset after it was done")
        reason = "Conflict" if kind == 409 else "x"
        body = orjson.dumps({"message": "injected", "reason": reason})
        return Response(kind if request.is_write else max(kind, 429), body)


_NOISE = frozenset(
    {
        "lastTransitionTime",
        "startTime",
        "completionTime",
        "lastUpdateTime",
        "time",
        "runUri",
        "phaseStartTime",
    }
)


def without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: without_times(v) for k, v in value.items() if k not in _NOISE}
    return [without_times(v) for v in value] if isinstance(value, list) else value


async def names(kube: KubeClient, kind: str, namespace: str) -> list[str]:
    return sorted(found["metadata"]["name"] for found in await kube.list(kind, namespace))


async def end_state(kube: KubeClient, namespace: str) -> Object:
    """All that is left at the end, without what may differ between two runs."""
    body = await until_ended(kube, namespace)
    return {
        "status": without_times(body["status"]),
        "jobs": await names(kube, "Job", namespace),
        "services": await names(kube, "Service", namespace),
        "versions": await names(kube, "ModelVersion", namespace),
    }


def differences(expected: Any, got: Any, path: str = "") -> list[str]:
    """Name what differs, for a failure that can be read."""
    if isinstance(expected, dict) and isinstance(got, dict):
        keys = sorted(expected.keys() | got.keys())
        return [d for k in keys for d in differences(expected.get(k), got.get(k), f"{path}.{k}")]
    if isinstance(expected, list) and isinstance(got, list) and len(expected) == len(got):
        pairs = enumerate(zip(expected, got, strict=True))
        return [d for i, (e, g) in pairs for d in differences(e, g, f"{path}[{i}]")]
    return [] if expected == got else [f"{path}: {got!r} instead of {expected!r}"]
