"""How many pods each revision needs. Pure arithmetic; called by the roll-out's planning.

With Surge stable keeps all its pods until the canary has taken over and longer. With NoSurge the
two share spec.replicas: pods change hands one at a time, the weight follows, and traffic runs on
up to one pod less than it is sized for. The last pod of a revision with traffic never goes. A
canary on stable's pods needs no others, but all of them: any may be asked for it.
"""

from dataclasses import dataclass
from math import ceil

from tunesmith_api.rollout import CapacityMode


@dataclass(frozen=True, slots=True)
class Sizing:
    """What the arithmetic depends on."""

    replicas: int
    """Pods that carry all of the traffic."""
    mode: CapacityMode
    is_shared: bool = False
    """Whether the canary is served by stable's pods, all of them."""

    @property
    def hands_over(self) -> bool:
        """Whether the canary's pods are taken from stable."""
        return self.mode is CapacityMode.NO_SURGE and self.replicas > 1 and not self.is_shared


def canary_needs(sizing: Sizing, weight: int, *, has_stable: bool = True) -> int:
    """Pods a canary must have ready before it gets ``weight`` percent; one at least."""
    if not has_stable or sizing.is_shared:
        return sizing.replicas
    share = max(1, ceil(sizing.replicas * weight / 100))
    return min(share, sizing.replicas - 1) if sizing.hands_over else share


def carried_weight(sizing: Sizing, ready: int, target: int) -> int:
    """Percent that ``ready`` pods can take on the way to ``target``, where pods change hands."""
    if not sizing.hands_over:
        return 0
    return min(target, 100 * ready // sizing.replicas)


def canary_asks(
    sizing: Sizing,
    target: int,
    *,
    replicas: int,
    ready: int,
    share: int,
    has_stable: bool = True,
) -> int:
    """Pods to ask for now, for a canary on its way to ``target`` percent.

    ``share`` is the percentage it was seen with. Where pods change hands the next one is asked
    for only after those before it have come and have taken their share of the traffic off stable.
    """
    needed = max(
        canary_needs(sizing, target, has_stable=has_stable),
        canary_needs(sizing, share, has_stable=has_stable) if share else 0,
    )
    if not sizing.hands_over or not has_stable:
        return needed
    if replicas == 0:
        return 1
    has_taken = share >= carried_weight(sizing, replicas, target)
    step = 1 if ready >= replicas and has_taken else 0
    return max(1, min(needed, replicas + step))


def stable_keeps(sizing: Sizing, canary_replicas: int, *, replicas: int = 0, share: int = 0) -> int:
    """Pods that stable keeps beside a canary of this size.

    It has ``replicas`` pods and was seen with ``share`` percent: where fewer pods are asked for
    than before, those that its traffic needs go only when that has moved on. One of them may be
    missing where pods change hands, and weights are whole percents.
    """
    if not sizing.hands_over:
        return sizing.replicas
    needed = ceil(sizing.replicas * (share - 1) / 100) - 1
    return max(1, sizing.replicas - canary_replicas, min(replicas, needed))
