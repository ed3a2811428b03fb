"""What the cluster refused of a ModelDeployment's objects, in words that say what to change.

One refusal holds up nothing else of a pass, because each action is safe by itself. The status is
written before the actions, so what was refused is said by the next pass, which comes at once.
Called by ``modeldeployment``; ``finetunejob`` gives the same advice.
"""

from collections.abc import Awaitable
from dataclasses import dataclass, field
from datetime import timedelta

from tunesmith_api.conditions import DeploymentReason
from tunesmith_api.modeldeployment import ModelDeployment
from tunesmith_operator.kube.errors import (
    Gone,
    Invalid,
    KubeError,
    NotOurs,
    Refused,
    Unavailable,
)
from tunesmith_operator.kube.known import Key
from tunesmith_operator.planning.actions import Emit
from tunesmith_operator.reconcile.emitting import emit
from tunesmith_operator.reconcile.world import World

_WEBHOOK_FAILED = 500
"""What the API server answers where it cannot ask an admission webhook: for as long as that is so,
and only for what that webhook is asked about."""
_RETRY = timedelta(seconds=10)
_SAY = timedelta(milliseconds=200)


@dataclass(slots=True)
class Refusals:
    """What was refused in the last pass over each deployment."""

    _last: dict[Key, str] = field(default_factory=dict)
    _now: dict[Key, list[str]] = field(default_factory=dict)

    def begin(self, key: Key) -> None:
        """Begin a pass: what one that broke off was refused is tried again."""
        self._now.pop(key, None)

    def of(self, key: Key) -> str | None:
        """Give what the last pass was refused: empty for nothing, None where none was seen."""
        return self._last.get(key)

    async def attempt(
        self,
        world: World,
        key: Key,
        deployment: ModelDeployment,
        work: Awaitable[timedelta | None],
    ) -> timedelta | None:
        """Do it, and return when to look again; what the cluster refuses is said.

        Raises KubeError for what passes by itself, such as an API server that is away.
        """
        try:
            return await work
        except (NotOurs, Refused, Gone, Unavailable) as error:
            if isinstance(error, Unavailable) and error.code != _WEBHOOK_FAILED:
                raise
            message = f"{error}. {advice(error, ModelDeployment.KIND)}"
            self._now.setdefault(key, []).append(message)
            refused = Emit("Warning", DeploymentReason.CHILD_REFUSED, message)
            emit(world, ModelDeployment.KIND, deployment.metadata, refused)
            return _RETRY

    def close(self, key: Key) -> timedelta | None:
        """End a pass. Return when to look again if there is something to say."""
        known, found = self._last.get(key), "; ".join(self._now.pop(key, ()))
        self._last[key] = found
        return None if found == (known or "") else _SAY

    def forget(self, key: Key) -> None:
        """Forget a deployment that is gone."""
        self._last.pop(key, None)
        self._now.pop(key, None)


def advice(error: KubeError, kind: str) -> str:
    """Say what to change so that the cluster takes a child of an object of that kind."""
    match error:
        case NotOurs():
            return f"Delete or rename that object, or give the {kind} another name"
        case Gone():
            return "Install the kind that it is of, or change the spec so that it is not needed"
        case Invalid():
            return "Change what it names in the spec"
        case Unavailable():
            return (
                "Mend or remove the admission webhook that it names; where it names none, the API"
                " server itself fails"
            )
        case _:
            return (
                "Change the quota, the admission policy or the operator's rights that it names, or"
                " ask for less"
            )
