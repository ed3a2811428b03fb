"""What the e2e tests of roll-outs do: wait for what becomes of deployments of the stand-in.

The stand-in and the deployments themselves are ``deploy.standin``.
"""

from deploy.standin.fleet import Fleet
from tests.e2e.lab import until
from tunesmith_api.deploymentstatus import ModelDeploymentStatus
from tunesmith_api.meta import Condition


class Deployments(Fleet):
    """A fleet that is waited for."""

    def status(self, name: str) -> ModelDeploymentStatus:
        return ModelDeploymentStatus.model_validate(self.body(name).get("status") or {})

    def condition(self, name: str, kind: str) -> Condition | None:
        return next((c for c in self.status(name).conditions if c.type == kind), None)

    def wait_for_phase(self, name: str, *phases: str, seconds: float = 120) -> str:
        def reached() -> str | None:
            phase = self.status(name).phase
            return phase if phase in phases else None

        return until(reached, seconds, f"{name} to be {' or '.join(phases)}", 0.25)

    def wait_until_stable(self, name: str, revision: int, seconds: float = 120) -> None:
        def reached() -> bool | None:
            status = self.status(name)
            is_it = status.stable is not None and status.stable.revision == revision
            return (is_it and status.rollout is None) or None

        until(reached, seconds, f"revision {revision} of {name} to be stable", 0.25)

    def wait_for_canary_traffic(self, name: str, seconds: float = 200) -> None:
        def reached() -> bool | None:
            canary = self.status(name).canary
            return (canary is not None and canary.weight > 0) or None

        until(reached, seconds, f"the canary of {name} to have traffic", 0.1)
