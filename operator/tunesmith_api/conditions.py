"""The words of a status: every condition and reason.

planning sets conditions only with these reasons, with OutOfMemory, with those of
:class:`tunesmith_api.result.UserErrorReason` or with those of
:class:`tunesmith_api.deploymentstatus.RollbackReason`; the simulation holds it. Only an image of
somebody's own may end with words of its own. ``meanings`` says what each means and what to do.
"""

from enum import StrEnum


class ConditionType(StrEnum):
    """Conditions of a FineTuneJob."""

    ACCEPTED = "Accepted"
    DATA_READY = "DataReady"
    QUOTA_RESERVED = "QuotaReserved"
    TRAINED = "Trained"
    EVALUATED = "Evaluated"
    EXPORTED = "Exported"
    OFFERED = "Offered"
    SUSPENDED = "Suspended"
    COMPLETE = "Complete"
    FAILED = "Failed"


class DeploymentCondition(StrEnum):
    """Conditions of a ModelDeployment."""

    READY = "Ready"
    AVAILABLE = "Available"
    PROGRESSING = "Progressing"
    STALLED = "Stalled"
    ROLLED_BACK = "RolledBack"


class VersionCondition(StrEnum):
    """Conditions of a ModelVersion."""

    VERIFIED = "Verified"
    IN_USE = "InUse"


class VersionReason(StrEnum):
    """Reasons of a ModelVersion's conditions."""

    MADE_BY_JOB = "MadeByJob"
    MADE_BY_HAND = "MadeByHand"
    USED = "Used"
    NOT_USED = "NotUsed"
    INVALID_SPEC = "InvalidSpec"


class DeploymentReason(StrEnum):
    """Reasons of a ModelDeployment's conditions, besides RollbackReason."""

    SERVING = "Serving"
    NO_REVISION = "NoRevision"
    REPLICAS_UNAVAILABLE = "ReplicasUnavailable"
    FAILED_OVER = "FailedOver"
    ROUTER_UNAVAILABLE = "RouterUnavailable"
    WAITING_FOR_REPLICAS = "WaitingForReplicas"
    WAITING_FOR_ROUTER = "WaitingForRouter"
    ANALYSING = "Analysing"
    INSUFFICIENT_TRAFFIC = "InsufficientTraffic"
    PROVIDER_UNAVAILABLE = "ProviderUnavailable"
    QUERY_INVALID = "QueryInvalid"
    AWAITING_APPROVAL = "AwaitingApproval"
    PAUSED = "Paused"
    PROMOTING = "Promoting"
    ROLLING_BACK = "RollingBack"
    ROLLOUT_COMPLETE = "RolloutComplete"
    REVISION_REJECTED = "RevisionRejected"
    ROLLBACK_DISABLED = "RollbackDisabled"
    VERSION_NOT_FOUND = "VersionNotFound"
    ARTIFACT_NOT_FOUND = "ArtifactNotFound"
    BASE_MODEL_UNKNOWN = "BaseModelUnknown"
    ADAPTER_ADDS_TOKENS = "AdapterAddsTokens"
    UNSERVABLE = "Unservable"
    INVALID_SPEC = "InvalidSpec"
    CHILD_REFUSED = "ChildRefused"
    NOT_ROLLED_BACK = "NotRolledBack"
    NOT_STALLED = "NotStalled"


class Reason(StrEnum):
    """Reasons of conditions, besides UserErrorReason and AttemptReason."""

    VALID_SPEC = "ValidSpec"
    INVALID_SPEC = "InvalidSpec"
    UNKNOWN_GPU_TYPE = "UnknownGpuType"
    SERVICE_ACCOUNT_REFUSED = "ServiceAccountRefused"
    VERSION_EXISTS = "VersionExists"
    CHILD_REFUSED = "ChildRefused"
    WAITING = "Waiting"
    STARTING = "Starting"
    RUNNING = "Running"
    UNSCHEDULABLE = "Unschedulable"
    IMAGE_PULL_FAILING = "ImagePullFailing"
    CONTAINER_NOT_STARTING = "ContainerNotStarting"
    STOPPING = "Stopping"
    RETRYING = "Retrying"
    PREPARED = "Prepared"
    TRAINED = "TrainingFinished"
    GATES_PASSED = "GatesPassed"
    GATES_FAILED = "GatesFailed"
    GATES_INCONCLUSIVE = "GatesInconclusive"
    UNGATED = "Ungated"
    UPLOADED = "Uploaded"
    SUSPENDED_BY_USER = "SuspendedByUser"
    RESUMED = "Resumed"
    WAITING_FOR_QUOTA = "WaitingForQuota"
    ADMITTED = "Admitted"
    VERSION_CREATED = "VersionCreated"
    CHANNEL_TAGGED = "ChannelTagged"
    DEPLOYMENT_NOT_FOUND = "DeploymentNotFound"
    NO_CHANNEL_FOLLOWED = "NoChannelFollowed"
    OTHER_MODEL_FOLLOWED = "OtherModelFollowed"
    OFFER_MISSED = "OfferMissed"
    ARTIFACT_MISSING = "ArtifactMissing"
    BACKOFF_LIMIT_EXCEEDED = "BackoffLimitExceeded"
    DISRUPTION_LIMIT_EXCEEDED = "DisruptionLimitExceeded"
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    STAGE_TIMEOUT = "StageTimeout"
