"""What is said of a ModelVersion: who vouches for it, and who uses it. Pure.

Called by ``reconcile.modelversion``. A version in use can be deleted all the same: running pods are
made from their revision's record and its files stay in S3, so nothing stops serving.
"""

from collections.abc import Sequence
from datetime import datetime

from tunesmith_api.conditions import VersionCondition, VersionReason
from tunesmith_api.meta import ConditionStatus
from tunesmith_api.modelversion import ModelVersion, ModelVersionStatus, VersionUser
from tunesmith_operator.planning.conditions import condition, set_condition

_KEPT_USERS = 64
_NAMED_USERS = 5

_Saying = tuple[VersionCondition, ConditionStatus, VersionReason, str]


def describe(
    version: ModelVersion, users: Sequence[VersionUser], now: datetime
) -> ModelVersionStatus:
    """Give the status; ``users`` are all ModelDeployments that use the version."""
    conditions, generation = version.status.conditions, version.metadata.generation
    for said in (_verified(version), _in_use(users)):
        new = condition(*said, generation=generation, now=now.replace(microsecond=0))
        conditions = set_condition(conditions, new)
    return ModelVersionStatus(
        observed_generation=generation,
        conditions=conditions,
        used_by=tuple(users[:_KEPT_USERS]),
    )


def _verified(version: ModelVersion) -> _Saying:
    """Verified is Unknown where only the author vouches for the digests."""
    lineage = version.spec.lineage
    if lineage is not None and lineage.report_digest is not None:
        message = f"Digests were taken by the run of {lineage.job}"
        reason = VersionReason.MADE_BY_JOB
        return VersionCondition.VERIFIED, ConditionStatus.TRUE, reason, message
    message = "Nobody has compared the digests with the objects"
    reason = VersionReason.MADE_BY_HAND
    return VersionCondition.VERIFIED, ConditionStatus.UNKNOWN, reason, message


def _in_use(users: Sequence[VersionUser]) -> _Saying:
    if not users:
        message = "No ModelDeployment serves it or names it"
        return VersionCondition.IN_USE, ConditionStatus.FALSE, VersionReason.NOT_USED, message
    named = ", ".join(f"{user.name} ({', '.join(user.roles)})" for user in users[:_NAMED_USERS])
    more = f" and {len(users) - _NAMED_USERS} more" if len(users) > _NAMED_USERS else ""
    message = f"Used by ModelDeployment {named}{more}"
    return VersionCondition.IN_USE, ConditionStatus.TRUE, VersionReason.USED, message
