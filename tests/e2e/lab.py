"""What the e2e tests do to a cluster, in the words of the tests."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import ValidationError

from deploy.cluster import Cluster
from deploy.kubectl import Kubectl
from deploy.release import NAMESPACE as OPERATOR_NAMESPACE
from deploy.release import RELEASE
from deploy.shell import Log, StepError
from deploy.standin.fleet import make_namespace, merged
from deploy.storage import BUCKET, Storage
from tunesmith_api.finetunejob import FineTuneJob
from tunesmith_api.jobstatus import FineTuneJobStatus
from tunesmith_api.meta import Condition
from tunesmith_api.report import TrainingReport
from tunesmith_api.result import PROGRESS_PORT, TrainerProgress

Manifest = dict[str, Any]
Say = Callable[[str], None]
"""Puts a line below the results of the whole run."""
OPERATOR_PODS = f"app.kubernetes.io/instance={RELEASE}"

T = TypeVar("T")

TINY: Manifest = {
    "apiVersion": "tunesmith.dev/v1alpha1",
    "kind": "FineTuneJob",
    "metadata": {"name": "tiny"},
    "spec": {
        "model": {"uri": "builtin://tiny"},
        "dataset": {"train": {"uri": f"s3://{BUCKET}/data/tiny.jsonl"}},
        "hyperparameters": {"maxSteps": 20, "learningRate": "5e-3", "maxSequenceLength": 256},
        "compute": {"gpusPerNode": 0},
        "checkpoint": {"everySteps": 5, "gracePeriodSeconds": 30},
        "output": {"uri": f"s3://{BUCKET}/e2e/"},
    },
}


@dataclass
class Lab:
    cluster: Cluster
    kubectl: Kubectl
    storage: Storage
    log: Log

    def make_namespace(self, name: str) -> None:
        make_namespace(self.kubectl, name)

    def create(self, manifest: Manifest) -> None:
        self.kubectl.run("create", "-f", "-", stdin=json.dumps(manifest))

    def submit(
        self, namespace: str, name: str, *, labels: dict[str, str] | None = None, **spec: Any
    ) -> None:
        """Apply a tiny job with the sections of ``spec`` laid over it."""
        metadata = {"name": name, "namespace": namespace, "labels": labels or {}}
        self.create(merged(TINY, {"metadata": metadata, "spec": spec}))

    def job(self, namespace: str, name: str) -> FineTuneJob:
        body = self.kubectl.get("finetunejob", name, namespace)
        assert body is not None, f"{name} is gone"
        return FineTuneJob.model_validate(body)

    def status(self, namespace: str, name: str) -> FineTuneJobStatus:
        return self.job(namespace, name).status

    def condition(self, namespace: str, name: str, kind: str) -> Condition | None:
        conditions = self.status(namespace, name).conditions
        return next((c for c in conditions if c.type == kind), None)

    def wait_for(
        self, namespace: str, name: str, kind: str, status: str = "True", seconds: int = 600
    ) -> Condition:
        """Wait for a condition; fail at once where the job has ended another way."""

        def reached() -> Condition | None:
            found = {c.type: c for c in self.status(namespace, name).conditions}
            ended = {t for t in ("Complete", "Failed") if t in found and found[t].status == "True"}
            if kind in found and found[kind].status == status:
                return found[kind]
            assert not ended or kind in ended, f"{name} ended: {[found[t].message for t in ended]}"
            return None

        return until(reached, seconds, f"{name} to be {kind}={status}")

    def wait_for_step(self, namespace: str, name: str, step: int, seconds: int = 400) -> int:
        """Wait until training has got to ``step``; give the step it is at."""

        def reached() -> int | None:
            progress = self.status(namespace, name).progress
            return progress.step if progress and progress.step >= step else None

        return until(reached, seconds, f"{name} to get to step {step}")

    def meet_at_step(self, namespace: str, name: str, step: int, seconds: int = 400) -> int:
        """Wait likewise, but ask the trainer itself: the status is seconds behind.

        A run of seconds could be over by then.
        """

        def reached() -> int | None:
            progress = self._trainer(namespace, name) or self.status(namespace, name).progress
            return progress.step if progress and progress.step >= step else None

        return until(reached, seconds, f"{name} to get to step {step}")

    def meet_with_checkpoint(self, namespace: str, name: str, seconds: int = 400) -> int:
        """Wait until the trainer says that a checkpoint is whole in S3, and give its step."""

        def saved() -> int | None:
            progress = self._trainer(namespace, name)
            return progress.checkpoint.step if progress and progress.checkpoint else None

        return until(saved, seconds, f"{name} to have a checkpoint")

    def _trainer(self, namespace: str, name: str) -> TrainerProgress | None:
        for pod in self.pods(namespace, name, "train"):
            where = f"/api/v1/namespaces/{namespace}/pods/{pod['metadata']['name']}"
            try:
                said = self.kubectl.proxy_get(f"{where}:{PROGRESS_PORT}/proxy/progress")
                return TrainerProgress.model_validate_json(said)
            except (StepError, ValidationError):
                continue  # it starts or ends just now
        return None

    def wait_for_stage(self, namespace: str, name: str, stage: str, seconds: int = 400) -> None:
        until(
            lambda: self.status(namespace, name).stage == stage or None,
            seconds,
            f"{name} to be in stage {stage}",
        )

    def train_tiny(self, namespace: str, artifact: str) -> Manifest:
        """Train the tiny model, and give the source of a deployment of its only artifact."""
        self.submit(namespace, "tiny", output={"artifacts": [artifact]})
        self.wait_for(namespace, "tiny", "Complete")
        version = self.kubectl.get("modelversion", "tiny-v1", namespace)
        assert version is not None
        (files,) = version["spec"]["artifacts"]
        return {"uri": files["uri"], "digest": files["digest"]}

    def report(self, namespace: str, name: str) -> TrainingReport:
        ref = self.status(namespace, name).report
        assert ref is not None
        body = self.storage.read(ref.uri.removeprefix(f"s3://{BUCKET}/"), self.log)
        assert body is not None
        return TrainingReport.model_validate_json(body)

    def pods(self, namespace: str, name: str, stage: str = "") -> list[Manifest]:
        labels = f"tunesmith.dev/job={name}" + (f",tunesmith.dev/stage={stage}" if stage else "")
        return self.kubectl.list_all("pods", namespace, labels)

    def suspend(self, namespace: str, name: str, value: bool) -> None:
        patch = json.dumps({"spec": {"suspend": value}})
        self.kubectl.run("patch", "ftj", name, "-n", namespace, "--type=merge", "-p", patch)

    def kill_operator(self) -> None:
        """End the operator's process without a chance to tidy up."""
        self.kubectl.run(
            "delete",
            "pods",
            "-n",
            OPERATOR_NAMESPACE,
            "-l",
            OPERATOR_PODS,
            "--grace-period=0",
            "--force",
        )

    @contextmanager
    def operator_away(self) -> Iterator[None]:
        """Stop the operator for as long as the block lasts."""
        deployment = ("-n", OPERATOR_NAMESPACE, f"deployment/{RELEASE}")
        self.kubectl.run("scale", "--replicas=0", *deployment)
        until(lambda: not self._operator_pods() or None, 200, "the operator to stop")
        try:
            yield
        finally:
            self.kubectl.run("scale", "--replicas=1", *deployment)
            self.kubectl.wait_for_rollout(RELEASE, OPERATOR_NAMESPACE, 200)

    def _operator_pods(self) -> list[Manifest]:
        return self.kubectl.list_all("pods", OPERATOR_NAMESPACE, OPERATOR_PODS)

    def wait_for_event(self, namespace: str, name: str, reason: str, seconds: int = 60) -> None:
        """Wait for an Event: the operator writes it after the status that it tells of."""

        def written() -> bool | None:
            found = self.kubectl.list_all("events", namespace)
            about = {e["reason"] for e in found if e["involvedObject"]["name"] == name}
            return reason in about or None

        until(written, seconds, f"the Event {reason} of {name}")

    def describe(self, namespace: str, seconds: float) -> str:
        """Say what a namespace holds, and what the operator said in the last ``seconds``."""
        since = f"--since={int(seconds) + 1}s"
        statuses = "jsonpath={range .items[*]}{.status}{'\\n'}{end}"
        asked = (
            ("get", "ftj,mv,mdep,jobs,deployments,pods", "-n", namespace, "-o", "wide"),
            ("get", "ftj,mdep", "-n", namespace, "-o", statuses),
            ("get", "events", "-n", namespace, "--sort-by=.lastTimestamp"),
            ("logs", "-n", OPERATOR_NAMESPACE, f"deploy/{RELEASE}", since, "--tail=80"),
        )
        parts = []
        for arguments in asked:
            try:
                said = self.kubectl.run(*arguments)
            except Exception as error:  # what cannot be asked must not hide the rest
                said = str(error)
            parts.append(f"$ kubectl {' '.join(arguments)}\n{said}")
        return "\n\n".join(parts)

    def children(self, namespace: str, name: str) -> list[str]:
        kinds = "jobs,pods,services,configmaps"
        return [
            item["kind"] + "/" + item["metadata"]["name"]
            for item in self.kubectl.list_all(kinds, namespace, f"tunesmith.dev/job={name}")
        ]


def until(ask: Callable[[], T | None], seconds: float, what: str, pause: float = 0.5) -> T:
    """Ask again and again until there is an answer."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        answer = ask()
        if answer is not None:
            return answer
        time.sleep(pause)
    raise AssertionError(f"waited {seconds:.0f} s in vain for {what}")
