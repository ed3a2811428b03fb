"""Whether somebody has looked at an object all the time: deadlines do not run while nobody does.

Only memory, because a status that said when it was looked at last would be written for ever: a
process that has just begun was away. So is one whose passes failed, such as without an API server,
where scheduler and kubelets do nothing either. Decides nothing. Called by ``modeldeployment``.
"""

from dataclasses import dataclass, field
from datetime import datetime

from tunesmith_operator.kube.known import Key
from tunesmith_operator.planning.stepping import NO_ABSENCE


@dataclass(slots=True)
class Looks:
    """When each object is to be looked at again at the latest, as its last pass promised."""

    _promised: dict[Key, datetime] = field(default_factory=dict)

    def was_away(self, key: Key, now: datetime) -> bool:
        """Whether this look comes long after it was promised, or is the first."""
        promised = self._promised.get(key)
        return promised is None or now > promised + NO_ABSENCE

    def promise(self, key: Key, time: datetime) -> None:
        """Take note of a pass whose status was written."""
        self._promised[key] = time

    def forget(self, key: Key) -> None:
        """Forget an object that is gone."""
        self._promised.pop(key, None)
