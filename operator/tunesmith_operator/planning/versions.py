"""What is said of a ModelVersion. Pure."""

from datetime import datetime

from tunesmith_api.meta import Condition, ConditionStatus
from tunesmith_api.modelversion import ModelVersion, ModelVersionStatus
from tunesmith_operator.planning.conditions import set_condition


def verified(version: ModelVersion, now: datetime) -> ModelVersionStatus:
    """Give the status: Verified is Unknown where only the author vouches for the digests."""
    lineage = version.spec.lineage
    made_by_job = lineage is not None and lineage.report_digest is not None
    new = Condition(
        type="Verified",
        status=ConditionStatus.TRUE if made_by_job else ConditionStatus.UNKNOWN,
        reason="MadeByJob" if made_by_job else "MadeByHand",
        message=(
            f"Digests were taken by the run of {lineage.job}"
            if made_by_job and lineage
            else "Nobody has compared the digests with the objects"
        ),
        observed_generation=version.metadata.generation,
        last_transition_time=now.replace(microsecond=0),
    )
    return ModelVersionStatus(
        observed_generation=version.metadata.generation,
        conditions=set_condition(version.status.conditions, new),
    )
