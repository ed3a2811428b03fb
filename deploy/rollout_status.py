"""What the demo and the benchmark read of a ModelDeployment's status, parsed once.

Not the contract's own types: ``deploy`` runs without the operator's packages, and reads only what
it shows. A field that is missing here has not been written yet.
"""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from deploy.kubectl import Manifest


class _Read(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True)


class Condition(_Read):
    """A condition."""

    type: str
    status: str
    reason: str = ""
    message: str = ""


class Revision(_Read):
    """A revision that has pods."""

    revision: int
    name: str
    version: str = ""
    weight: int = 0
    ready_replicas: int = 0


class Metric(_Read):
    """What is known of a metric."""

    name: str
    value: str = ""
    verdict: str = ""
    message: str = ""
    failures: int = 0


class Rollout(_Read):
    """The roll-out in progress."""

    metrics: tuple[Metric, ...] = ()


class Rollback(_Read):
    """The last rollback."""

    from_revision: int
    reason: str
    metric: str = ""
    message: str = ""
    time: datetime
    detected_after_seconds: int = 0
    restored_after_milliseconds: int | None = None
    requests_served_by_rejected: int = 0


class DeploymentStatus(_Read):
    """The status of a ModelDeployment."""

    observed_generation: int = 0
    phase: str = "Pending"
    stable: Revision | None = None
    canary: Revision | None = None
    conditions: tuple[Condition, ...] = ()
    rollout: Rollout | None = None
    last_rollback: Rollback | None = None
    last_revision: int = 0

    def condition(self, kind: str) -> Condition | None:
        """Return a condition, or nothing while it has not been written."""
        return next((one for one in self.conditions if one.type == kind), None)

    def is_true(self, kind: str) -> bool:
        """Whether a condition is True."""
        found = self.condition(kind)
        return found is not None and found.status == "True"


def parse_status(body: Manifest | None) -> DeploymentStatus:
    """Read the status of an object; an empty one when there is no object or no status."""
    return DeploymentStatus.model_validate((body or {}).get("status") or {})
