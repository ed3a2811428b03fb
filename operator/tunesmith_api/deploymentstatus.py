"""The status of a ModelDeployment: what serves, how far a roll-out is, and what was gone back on.

It is the operator's only memory, and it is written before anything it says is acted on.
"""

from datetime import datetime
from enum import StrEnum
from typing import Annotated

from pydantic import Field

from tunesmith_api.analysis import Verdict
from tunesmith_api.meta import Condition, Digest, ShortText, Status, Text

Count = Annotated[int, Field(ge=0)]
Percent = Annotated[int, Field(ge=0, le=100)]


class RolloutPhase(StrEnum):
    """One word for where the deployment is. For display only; conditions are the truth."""

    PENDING = "Pending"
    STARTING = "Starting"
    ANALYSING = "Analysing"
    AWAITING_APPROVAL = "AwaitingApproval"
    PROMOTING = "Promoting"
    ROLLING_BACK = "RollingBack"
    PAUSED = "Paused"
    STALLED = "Stalled"
    ROLLED_BACK = "RolledBack"
    STABLE = "Stable"


class RollbackReason(StrEnum):
    """Why a revision was rejected; also the reason of the condition RolledBack."""

    ANALYSIS_FAILED = "AnalysisFailed"
    CONSECUTIVE_ERRORS = "ConsecutiveErrors"
    CRASH_LOOPING = "CrashLooping"
    CANARY_UNHEALTHY = "CanaryUnhealthy"
    READY_TIMEOUT = "ReadyTimeout"
    MODEL_REFUSED = "ModelRefused"
    INSUFFICIENT_DATA = "InsufficientData"
    PROVIDER_ERROR = "ProviderError"
    PROMOTED_UNHEALTHY = "PromotedUnhealthy"


class Outcome(StrEnum):
    """How the roll-out of a revision ended."""

    PROMOTED = "Promoted"
    ROLLED_BACK = "RolledBack"
    SUPERSEDED = "Superseded"
    """Another spec came before it was decided."""


class RevisionStatus(Status):
    """A revision that has pods: model and configuration, by digest."""

    revision: Annotated[int, Field(ge=1)]
    """Its number."""
    name: ShortText
    """Name of its Deployment, Service and ConfigMap."""
    version: ShortText = ""
    """ModelVersion it serves, if there is one."""
    digest: Digest
    """sha256 over model, delivery, engine and S3 settings."""
    weight: Percent = 0
    """Percent of the requests that the router was last seen to send to it."""
    ready_replicas: Count = 0
    """Pods that are ready with the right model."""


class PreviousStatus(RevisionStatus):
    """The former stable revision, kept with its pods for a while."""

    until: datetime
    """When its pods may go."""


class MetricStatus(Status):
    """What is known of one metric."""

    name: Annotated[str, Field(max_length=63)]
    """Its name."""
    value: Annotated[str, Field(max_length=40)] = ""
    """The canary's last value."""
    stable_value: Annotated[str, Field(max_length=40)] = ""
    """Stable's, where they are compared."""
    verdict: Verdict = Verdict.NO_DATA
    """Of the last sample."""
    message: Annotated[str, Field(max_length=512)] = ""
    """The verdict in words."""
    needs_change: bool = False
    """Whether it cannot be measured until its query, or its prompts, are corrected."""
    failures: Count = 0
    """Failed samples within the window."""
    samples: Count = 0
    """Samples in this step."""
    recent: Annotated[tuple[Verdict, ...], Field(max_length=20)] = ()
    """Pass and Fail within the window, oldest first; samples without data are not among them."""


class AbortStatus(Status):
    """That the canary is rejected, written before its traffic is taken away."""

    reason: RollbackReason
    """Why."""
    metric: Annotated[str, Field(max_length=63)] = ""
    """The metric that failed, if one did."""
    message: Text = ""
    """Why, as a sentence."""
    time: datetime
    """When it was decided, to the millisecond."""


class RolloutStatus(Status):
    """The roll-out in progress."""

    digest: Digest
    """The revision."""
    plan: Digest
    """sha256 over steps, analysis, failFast and readyTimeoutSeconds as they were at the start."""
    start_time: datetime
    """When it began, or began again."""
    skips_analysis: bool = False
    """Whether it goes straight to 100: the first revision of all, or back to a recent good one."""
    step: Annotated[int, Field(ge=0, le=16)] = 0
    """Index of the step; the number of steps is the implied 100."""
    weight: Percent = 0
    """Percent that the canary has been granted. Written before the router is told."""
    step_start_time: datetime | None = None
    """When the router was first seen with this step's weight."""
    exposed_time: datetime | None = None
    """When the canary got its first request, or copy of one."""
    unready_time: datetime | None = None
    """Since when its pods are awaited."""
    sample_time: datetime | None = None
    """When the last sample was taken."""
    look_time: datetime | None = None
    """When the canary was last looked at before its time, as confirmSeconds asks for. The same as
    sampleTime where that look was a sample: it had enough requests."""
    data_time: datetime | None = None
    """When every metric last had data."""
    interruptions: Count = 0
    """How often all of its pods were lost after it had traffic, and it began again."""
    stable_crash_loops: bool = False
    """Whether the engine of the pods that it shares with stable ended again and again before it
    came. Its ends are then no evidence against the canary."""
    verdict: Verdict = Verdict.NO_DATA
    """The worst over all metrics."""
    metrics: Annotated[tuple[MetricStatus, ...], Field(max_length=16)] = Field(
        default=(),
        json_schema_extra={
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["name"],
        },
    )
    """What is known of each metric."""
    abort: AbortStatus | None = None
    """Set once it is rejected; its traffic goes back."""


class RollbackStatus(Status):
    """The last rollback."""

    from_revision: Count
    """The rejected revision."""
    to_revision: Count
    """The revision that serves instead."""
    digest: Digest
    """The rejected revision's digest."""
    reason: RollbackReason
    """Why."""
    metric: Annotated[str, Field(max_length=63)] = ""
    """The metric that failed, if one did."""
    message: Text = ""
    """Why, as a sentence."""
    time: datetime
    """When it was decided."""
    detected_after_seconds: Count = 0
    """From the canary's first request, or else its start, to the decision."""
    restored_after_milliseconds: Count | None = None
    """From the decision until the router was seen without it. Absent while it still has traffic,
    which happens only while nothing else can serve."""
    requests_served_by_rejected: Count = 0
    """Requests it had answered by then, as the router counted them. With router GatewayAPI, which
    tells no counts, as its pods counted them, copies for mirrorPercent included."""
    stable_crash_loops: bool = False
    """Whether the engine of the pods that it shared with stable ended again and again before it
    came already, so that later ends are not put down to it."""


class RejectedStatus(Status):
    """A revision that is not rolled out again under the same plan."""

    digest: Digest
    """The revision."""
    plan: Digest
    """The plan it was rejected under. With another plan it gets another chance."""
    reason: RollbackReason
    """Why."""
    time: datetime
    """When."""


class HistoryEntry(Status):
    """A former roll-out."""

    revision: Annotated[int, Field(ge=1)]
    """Number of the revision."""
    name: ShortText
    """Name of its objects."""
    version: ShortText = ""
    """ModelVersion it served."""
    digest: Digest
    """Its digest."""
    outcome: Outcome
    """How its last roll-out ended."""
    start_time: datetime
    """When that began."""
    completion_time: datetime
    """When it ended."""


class ModelDeploymentStatus(Status):
    """What the operator has seen and decided."""

    observed_generation: Count = 0
    """The metadata.generation this status speaks of."""
    phase: RolloutPhase = RolloutPhase.PENDING
    """One word for where the deployment is. For display only."""
    url: ShortText = ""
    """Where requests go to, inside the cluster."""
    replicas: Count = 0
    """Pods of all revisions; for the autoscaler."""
    selector: ShortText = ""
    """Label selector of those pods; for the autoscaler."""
    stable: RevisionStatus | None = None
    """The revision that was promoted last."""
    canary: RevisionStatus | None = None
    """The revision that is being rolled out."""
    previous: PreviousStatus | None = None
    """The former stable revision while its pods are kept."""
    conditions: Annotated[tuple[Condition, ...], Field(max_length=16)] = Field(
        default=(),
        json_schema_extra={
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["type"],
        },
    )
    """Ready, Available, Progressing, Stalled, RolledBack."""
    rollout: RolloutStatus | None = None
    """The roll-out in progress."""
    last_rollback: RollbackStatus | None = None
    """The last rollback, with how fast it was."""
    rejected: Annotated[tuple[RejectedStatus, ...], Field(max_length=10)] = ()
    """The last ten revisions that were rejected. They are not tried again until the spec
    changes: the revision itself, or the plan it is judged by."""
    history: Annotated[tuple[HistoryEntry, ...], Field(max_length=20)] = ()
    """Former roll-outs, newest last, at most revisionHistoryLimit."""
    last_revision: Count = 0
    """Highest number given to a revision."""
