"""Whether somebody has looked at an object all the time: deadlines do not run while nobody does.

Only memory, because a status that said when it was looked at last would be written for ever: a
process that has just begun was away. So is one whose passes failed, or that led no more for a
while, such as without an API server, where scheduler and kubelets do nothing either. Decides
nothing. Called by ``modeldeployment``.
"""

from dataclasses import dataclass, field
from datetime import datetime

from tunesmith_operator.kube.known import Key
from tunesmith_operator.planning.stepping import NO_ABSENCE


@dataclass(slots=True)
class Looks:
    """When each object is to be looked at again at the latest, as its last pass promised.

    A promise is one of the term in which it was made: since when the operator leads.
    """

    _promised: dict[Key, tuple[datetime, int]] = field(default_factory=dict)

    def was_away(self, key: Key, now: datetime, term: int) -> bool:
        """Whether this look comes long after it was promised, or is the first of its term."""
        promised, of_term = self._promised.get(key, (now, -1))
        return of_term != term or now > promised + NO_ABSENCE

    def promise(self, key: Key, time: datetime, term: int) -> None:
        """Take note of a pass whose status was written."""
        self._promised[key] = time, term

    def forget(self, key: Key) -> None:
        """Forget an object that is gone."""
        self._promised.pop(key, None)
