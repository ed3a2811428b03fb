"""The state of a toy world, what can be read off it, and what people do to its spec."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from tests.simulation.rollout_parts import GOOD, RULES, START, VERSIONS, Faults, Model, Revision
from tunesmith_api.deploymentstatus import ModelDeploymentStatus, RolloutStatus
from tunesmith_api.modeldeployment import ModelDeployment
from tunesmith_api.modelversion import ModelVersion
from tunesmith_api.revision import RevisionTemplate
from tunesmith_operator.planning.actions import Emit
from tunesmith_operator.planning.revisions import revision_digest
from tunesmith_operator.planning.serving import (
    MetricSample,
    Sampling,
    SeenRevision,
    Traffic,
)
from tunesmith_operator.planning.serving_actions import (
    Notify,
)
from tunesmith_operator.planning.sources import resolve
from tunesmith_operator.reconcile.looking import Looks


@dataclass
class RolloutState:
    seed: int
    models: dict[int, Model] = field(default_factory=dict)
    """By number of the version; good where it is not said."""
    rules: dict[str, Any] = field(default_factory=dict)
    """Over RULES, for spec.rollout."""
    replicas: int = 4
    faults: Faults = field(default_factory=Faults)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.now = START
        spec = {
            "source": {"modelVersion": "m-v1"},
            "replicas": self.replicas,
            "rollout": {**RULES, **self.rules},
        }
        self.deployment = ModelDeployment.model_validate(
            {"metadata": {"name": "chat", "uid": "u", "generation": 1}, "spec": spec}
        )
        self.revisions: dict[str, Revision] = {}
        self.traffic: Traffic | None = None
        self.traffic_seen: Traffic | None = None
        self.is_settled = self.was_settled = True
        self.was_silent = False
        self.router_silent_for = self.away_for = self.dry_for = self.provider_sick_for = 0
        self.provider_says: Callable[[], MetricSample] | None = None
        self.events: list[Emit] = []
        self.notes: list[Notify] = []
        self.transcript: list[str] = []
        self.weights: list[tuple[float, int]] = []
        self.earned: dict[tuple[str, datetime], int] = {}
        """The oracle: up to which step a roll-out has had a really good sample."""
        self.watched: object = None
        self.due: datetime | None = START
        self.looks = Looks()
        self.term = 1
        self.measuring: tuple[datetime, Sampling] | None = None
        """When the measurement under way is done, and what it gives."""
        self.is_cluster_away = False
        self.blinded: datetime | None = None
        """When a provider was sick, or there was no traffic to measure."""
        self.evicted: datetime | None = None
        self.is_caught_up = False
        self.counted: dict[tuple[str, str], int] = {}
        """Requests of a revision that samples of a metric were taken over already."""
        self.passes = self.samples = self.early_looks = 0
        self.unserved = 0
        """Requests that were sent to a revision without ready pods."""

    def set_spec(self, **changes: Any) -> None:
        spec = self.deployment.spec.model_dump(mode="json", by_alias=True, exclude_none=True)
        spec |= changes
        meta = self.deployment.metadata
        changed = ModelDeployment.model_validate(
            {
                "metadata": meta.model_copy(update={"generation": meta.generation + 1}),
                "spec": spec,
                "status": self.status,
            }
        )
        if changed.spec != self.deployment.spec:
            self.deployment = changed

    def offer(self, version: int) -> None:
        self.transcript.append(f"spec asks for version {version}")
        self.set_spec(source={"modelVersion": f"m-v{version}"})

    def delete(self) -> None:
        """kubectl delete: it is there until the garbage collector has taken its children."""
        meta = self.deployment.metadata.model_copy(update={"deletion_timestamp": self.now})
        self.deployment = self.deployment.model_copy(update={"metadata": meta})
        self.due = self.now

    def set_rules(self, **rules: Any) -> None:
        now = self.deployment.spec.rollout
        old = now.model_dump(mode="json", by_alias=True, exclude_none=True)
        self.set_spec(rollout=old | rules)

    @property
    def status(self) -> ModelDeploymentStatus:
        return self.deployment.status

    @property
    def rollout(self) -> RolloutStatus:
        assert self.status.rollout is not None
        return self.status.rollout

    @property
    def versions(self) -> tuple[ModelVersion, ...]:
        return VERSIONS

    def wanted(self) -> str:
        template = resolve(self.deployment.spec, self.versions)
        assert isinstance(template, RevisionTemplate)
        return revision_digest(template)

    def seen(self, revision: Revision) -> SeenRevision:
        model = self.model(revision)
        return SeenRevision(
            name=revision.name,
            uid=revision.name,
            digest=revision.digest,
            number=revision.number,
            template=revision.template,
            replicas=revision.replicas,
            ready_replicas=revision.ready,
            restarts=sum(p.restarts for p in revision.pods),
            waiting=model.never_ready,
            refusal=model.refused if revision.pods else "",
        )

    def model(self, revision: Revision) -> Model:
        return self.models.get(int(revision.template.version.removeprefix("m-v")), GOOD)

    def what_watches_show(self) -> object:
        """Everything but the status and the router: own writes and counters wake nobody."""
        pods = {r.name: (r.replicas, r.ready) for r in self.revisions.values()}
        restarts = [self.seen(r).restarts for r in self.revisions.values()]
        return self.deployment.metadata.generation, pods, restarts

    def number(self, name: str) -> int:
        return self.revisions[name].number

    def chance(self, probability: float) -> bool:
        return probability > 0 and self.rng.random() < probability
