"""What every word of a status means and what to do about it; docs/conditions.md is made from this.

A test holds that no word is left out. Read by ``generate``; nothing at run time needs it.
"""

from tunesmith_api.attempts import AttemptReason
from tunesmith_api.conditions import (
    ConditionType,
    DeploymentCondition,
    DeploymentReason,
    Reason,
    VersionCondition,
    VersionReason,
)
from tunesmith_api.deploymentstatus import RollbackReason
from tunesmith_api.result import UserErrorReason

CONDITION_MEANINGS: dict[ConditionType, str] = {
    ConditionType.ACCEPTED: "The spec makes sense to this operator. False says what to change; "
    "nothing runs until then.",
    ConditionType.DATA_READY: "The data was read, cleaned, split and tokenized.",
    ConditionType.QUOTA_RESERVED: "Kueue has admitted the training pods. Only where the job "
    "carries the label kueue.x-k8s.io/queue-name.",
    ConditionType.TRAINED: "Training has finished. While False it says how far it is and what it "
    "waits for.",
    ConditionType.EVALUATED: "The gates have been judged; the reason is the verdict.",
    ConditionType.EXPORTED: "The artifacts are in S3, each with a manifest and its digest.",
    ConditionType.OFFERED: "The ModelVersion was made with the tag of the channel that the "
    "ModelDeployment of spec.deployTo follows. False says what to change; the version exists all "
    "the same. Only where deployTo is set and the gates have passed. Says nothing of the roll-out: "
    "that is the deployment's status.",
    ConditionType.SUSPENDED: "spec.suspend holds the job. Its pods are gone, its checkpoint stays.",
    ConditionType.COMPLETE: "The gates have passed and the ModelVersion exists. Never changes "
    "back.",
    ConditionType.FAILED: "The job has ended without a version. The message says what to change. "
    "Never changes back.",
}

VERSION_CONDITION_MEANINGS: dict[VersionCondition, str] = {
    VersionCondition.VERIFIED: "A run's report vouches for the digests. Unknown where only the "
    "author does. Pods refuse files with other digests either way.",
    VersionCondition.IN_USE: "A ModelDeployment serves it or names it; status.usedBy says which. "
    "Deleting it stops no pod: what serves goes on, but a source.modelVersion that names it stalls "
    "with VersionNotFound.",
}

VERSION_REASON_MEANINGS: dict[VersionReason, str] = {
    VersionReason.MADE_BY_JOB: "A FineTuneJob made it and took the digests.",
    VersionReason.MADE_BY_HAND: "Somebody wrote it; nobody has compared digests and objects.",
    VersionReason.USED: "The message names the ModelDeployments and what it is to them.",
    VersionReason.NOT_USED: "No ModelDeployment serves it or names it.",
    VersionReason.INVALID_SPEC: "This operator cannot read the version, whose CRD was another one; "
    "the message names the fields. Make it anew, or upgrade CRDs and operator.",
}

DEPLOYMENT_CONDITION_MEANINGS: dict[DeploymentCondition, str] = {
    DeploymentCondition.READY: "All requests go to healthy revisions, with all the pods they need. "
    "True during a roll-out and after a rollback: what is served, not what is wanted.",
    DeploymentCondition.AVAILABLE: "Requests are answered, if perhaps by too few pods.",
    DeploymentCondition.PROGRESSING: "A roll-out goes on; the reason says what it is doing or "
    "waiting for.",
    DeploymentCondition.STALLED: "What is wanted is not served and will not be by waiting; the "
    "message says what to change. What serves goes on.",
    DeploymentCondition.ROLLED_BACK: "The wanted revision was rejected and the one before serves. "
    "The spec is left as it is; False again when another revision is rolled out.",
}

DEPLOYMENT_REASON_MEANINGS: dict[DeploymentReason, str] = {
    DeploymentReason.SERVING: "The stable revision serves.",
    DeploymentReason.NO_REVISION: "No revision has been ready yet.",
    DeploymentReason.REPLICAS_UNAVAILABLE: "Pods of a revision with traffic are not ready.",
    DeploymentReason.FAILED_OVER: "Stable has no ready pods; another revision has its traffic "
    "until it is back.",
    DeploymentReason.ROUTER_UNAVAILABLE: "The router cannot be asked, or none of its pods is "
    "ready, or it has not taken the weights. It goes on with the last ones.",
    DeploymentReason.WAITING_FOR_REPLICAS: "The canary's pods are not ready yet; the message says "
    "what they wait for.",
    DeploymentReason.WAITING_FOR_ROUTER: "The router has not taken the weights yet.",
    DeploymentReason.ANALYSING: "The canary is watched at its step's weight.",
    DeploymentReason.INSUFFICIENT_TRAFFIC: "A metric has too few requests, of the canary or of "
    "stable. Nothing is promoted on missing data.",
    DeploymentReason.PROVIDER_UNAVAILABLE: "The metrics' provider does not answer, or gives no "
    "number (nothing, NaN, text) although there is traffic. Nothing is promoted on missing data.",
    DeploymentReason.QUERY_INVALID: "A metric cannot be measured as it is asked for: a query that "
    "does not parse or gives no single number, a pattern that does not compile, prompts that are "
    "missing. Correct metrics[].query, or the ConfigMap of goldenPrompts; at dataTimeoutSeconds "
    "the canary is rolled back with ProviderError.",
    DeploymentReason.AWAITING_APPROVAL: "All steps have passed; set rollout.approvedDigest to "
    "status.canary.digest.",
    DeploymentReason.PAUSED: "spec.paused holds the roll-out.",
    DeploymentReason.PROMOTING: "The canary grows to its full size and takes all requests.",
    DeploymentReason.ROLLING_BACK: "The canary is rejected and its traffic goes back.",
    DeploymentReason.ROLLOUT_COMPLETE: "The wanted revision is stable.",
    DeploymentReason.REVISION_REJECTED: "The wanted revision was rejected and is not tried again. "
    "Change the revision, or the steps, analysis, failFast or readyTimeoutSeconds it is judged by.",
    DeploymentReason.ROLLBACK_DISABLED: "The analysis has failed and rollback.automatic is false.",
    DeploymentReason.VERSION_NOT_FOUND: "There is no such ModelVersion, or none in the channel.",
    DeploymentReason.ARTIFACT_NOT_FOUND: "The ModelVersion has no artifact that the engine can "
    "serve.",
    DeploymentReason.UNSERVABLE: "No pods can be made of what the spec asks for; the message says "
    "what to change.",
    DeploymentReason.INVALID_SPEC: "This operator cannot read the object, which was stored under "
    "another CRD: the message names the fields and what to change. What serves is left as it is, "
    "and nobody looks after it until then.",
    DeploymentReason.CHILD_REFUSED: "The cluster refused an object of the deployment: a quota, an "
    "admission policy, or an object of the same name that is not Tunesmith's. It is tried again.",
    DeploymentReason.BASE_MODEL_UNKNOWN: "The ModelVersion does not say which base model its "
    "adapter was trained for.",
    DeploymentReason.ADAPTER_ADDS_TOKENS: "The adapter brings tokens that its base model lacks, "
    "which running pods cannot take on; the message says what to serve instead.",
    DeploymentReason.NOT_ROLLED_BACK: "The wanted revision was not rejected.",
    DeploymentReason.NOT_STALLED: "Nothing stands in the way.",
}

ROLLBACK_MEANINGS: dict[RollbackReason, str] = {
    RollbackReason.ANALYSIS_FAILED: "A metric failed in failureLimit of the last window samples "
    "that could be judged.",
    RollbackReason.CONSECUTIVE_ERRORS: "The canary failed failFast.consecutiveErrors requests in a "
    "row.",
    RollbackReason.CRASH_LOOPING: "The canary's containers restarted failFast.restarts times.",
    RollbackReason.CANARY_UNHEALTHY: "The canary lost all its pods again and again.",
    RollbackReason.READY_TIMEOUT: "The canary's pods were not ready within readyTimeoutSeconds.",
    RollbackReason.MODEL_REFUSED: "The pods refused the model: its digest is another, or the "
    "engine cannot read it.",
    RollbackReason.INSUFFICIENT_DATA: "A metric had too few requests for dataTimeoutSeconds, or at "
    "the end of a hold with onInsufficientData RollBack. Says nothing of the model.",
    RollbackReason.PROVIDER_ERROR: "The metrics' provider did not answer, or gave no number, for "
    "that long. Says nothing of the model.",
    RollbackReason.PROMOTED_UNHEALTHY: "The new stable broke while the former one was still warm.",
}

REASON_MEANINGS: dict[Reason, str] = {
    Reason.VALID_SPEC: "The spec makes sense.",
    Reason.INVALID_SPEC: "The spec cannot be run as it is; the message says what to change. With "
    "Failed: the API server says that the Job it asks for is invalid.",
    Reason.UNKNOWN_GPU_TYPE: "compute.gpuType is not in the chart's table gpuTypes.",
    Reason.SERVICE_ACCOUNT_REFUSED: "compute.serviceAccountName is not among those the chart "
    "allows.",
    Reason.VERSION_EXISTS: "The ModelVersion that output.modelVersion asks for exists already.",
    Reason.CHILD_REFUSED: "The cluster refused a child of the job: a quota, an admission policy, "
    "or an object of the same name that is not Tunesmith's. It is tried again.",
    Reason.WAITING: "An earlier stage has not finished.",
    Reason.STARTING: "The pods are being started.",
    Reason.RUNNING: "The pods run.",
    Reason.UNSCHEDULABLE: "No node can take the pods; the message holds the scheduler's words.",
    Reason.IMAGE_PULL_FAILING: "The trainer's image cannot be pulled.",
    Reason.CONTAINER_NOT_STARTING: "The container cannot be started, or its pod cannot be made; "
    "the message holds the words of the kubelet or of the API server.",
    Reason.STOPPING: "The pods have been asked to save a checkpoint and end.",
    Reason.RETRYING: "An attempt ended and another one follows.",
    Reason.PREPARED: "The prepared data is in S3.",
    Reason.TRAINED: "All steps are done, or early stopping ended them.",
    Reason.GATES_PASSED: "Every gate has passed.",
    Reason.GATES_FAILED: "At least one gate has failed. The artifacts stay in S3; no version is "
    "made.",
    Reason.GATES_INCONCLUSIVE: "A gate's metric is missing or not a number. No version is made.",
    Reason.UNGATED: "No gate was asked for, as evaluation.allowUngated permits.",
    Reason.UPLOADED: "The artifacts and report.json are in S3.",
    Reason.SUSPENDED_BY_USER: "spec.suspend is true.",
    Reason.RESUMED: "spec.suspend is false again.",
    Reason.WAITING_FOR_QUOTA: "Kueue has not admitted the training pods yet, or a ResourceQuota "
    "is used up.",
    Reason.ADMITTED: "Kueue has admitted the training pods.",
    Reason.VERSION_CREATED: "The ModelVersion exists.",
    Reason.CHANNEL_TAGGED: "The ModelVersion has the tag of the channel that the ModelDeployment "
    "followed when it was made.",
    Reason.DEPLOYMENT_NOT_FOUND: "There is no ModelDeployment of the name in deployTo.",
    Reason.NO_CHANNEL_FOLLOWED: "The ModelDeployment names fixed files: source.modelVersion or "
    "source.uri. The operator never writes its spec.",
    Reason.OTHER_MODEL_FOLLOWED: "The ModelDeployment follows another model than the version's.",
    Reason.OFFER_MISSED: "The ModelDeployment follows the model now, but did not when the version "
    "was made, and versions never change.",
    Reason.ARTIFACT_MISSING: "The ModelVersion has no artifact that the ModelDeployment's engine "
    "can serve; output.artifacts says which are made.",
    Reason.BACKOFF_LIMIT_EXCEEDED: "More attempts have failed than runPolicy.backoffLimit allows.",
    Reason.DISRUPTION_LIMIT_EXCEEDED: "More attempts were disrupted than "
    "runPolicy.disruptionLimit allows.",
    Reason.DEADLINE_EXCEEDED: "runPolicy.activeDeadlineSeconds is over.",
    Reason.STAGE_TIMEOUT: "A stage took longer than runPolicy.stageTimeoutSeconds.",
}

USER_ERROR_MEANINGS: dict[UserErrorReason, str] = {
    UserErrorReason.MODEL_NOT_FOUND: "The base model does not exist, or the credentials may not "
    "see it.",
    UserErrorReason.MODEL_INVALID: "The base model lacks its configuration, tokenizer or "
    "safetensors weights.",
    UserErrorReason.BUCKET_NOT_FOUND: "The bucket does not exist at the endpoint.",
    UserErrorReason.DATASET_NOT_FOUND: "There is no object at the data's URI.",
    UserErrorReason.DATASET_EMPTY: "The data has no conversations.",
    UserErrorReason.DATASET_MALFORMED: "More rows cannot be read than checks.failOnMalformed "
    "allows; the message gives line and content.",
    UserErrorReason.DATASET_TOO_SMALL: "Fewer rows than checks.minRows.",
    UserErrorReason.DATASET_TOO_LARGE: "More rows than checks.maxRows.",
    UserErrorReason.DATASET_OVERLAPS: "Training rows repeat held-out ones, and checks.onOverlap is "
    "Fail.",
    UserErrorReason.WRONG_COLUMNS: "The rows' fields have other names; set dataset.columns or "
    "dataset.format.",
    UserErrorReason.TEMPLATE_INVALID: "dataset.customTemplate or dataset.prompt.template cannot be "
    "rendered; the message gives the line.",
    UserErrorReason.NOTHING_TO_TRAIN_ON: "No row has a response that fits the context.",
    UserErrorReason.SEQUENCE_TOO_LONG: "A row, or maxSequenceLength, is longer than allowed.",
    UserErrorReason.CREDENTIALS_MISSING: "The Secret or its keys do not exist.",
    UserErrorReason.ACCESS_DENIED: "S3, or the endpoint of a generator, refused the credentials.",
    UserErrorReason.OUTPUT_NOT_WRITABLE: "The credentials may not write below output.uri.",
    UserErrorReason.GPU_NOT_FOUND: "GPUs were asked for and the pod sees none.",
    UserErrorReason.DOES_NOT_FIT: "The model cannot be trained in the memory of the GPU type; the "
    "message says what would fit.",
    UserErrorReason.PRECISION_UNSUPPORTED: "The device cannot compute in this precision.",
    UserErrorReason.NON_FINITE_LOSS: "The loss became NaN or infinite.",
    UserErrorReason.CHECKPOINT_MISMATCH: "The run has checkpoints that were made with other "
    "settings or data; the message says which. They are neither used nor deleted.",
    UserErrorReason.PACKAGE_MISSING: "The trainer's image lacks a Python package that the spec "
    "asks for, such as MLflow's; the message says which.",
    UserErrorReason.INVALID_RUN: "The trainer cannot do what the spec asks; the message says why.",
}

ATTEMPT_MEANINGS: dict[AttemptReason, str] = {
    AttemptReason.SUCCEEDED: "It did its stage.",
    AttemptReason.EVICTED: "Evicted, preempted, deleted or its node lost. Counts against "
    "disruptionLimit.",
    AttemptReason.OUT_OF_MEMORY: "It ran out of memory. With onOutOfMemory HalveBatch the next "
    "attempt has half the batch, once.",
    AttemptReason.IMAGE_PULL: "Its image could not be pulled. Counts against backoffLimit.",
    AttemptReason.USER_ERROR: "The job itself is wrong. Ends the job.",
    AttemptReason.INFRASTRUCTURE: "S3, the network, a rank or the trainer broke. Counts against "
    "backoffLimit.",
    AttemptReason.STALLED: "It got no further for runPolicy.stallTimeoutSeconds. Counts against "
    "backoffLimit.",
    AttemptReason.DEADLINE_EXCEEDED: "A time limit was over. Ends the job.",
    AttemptReason.SUSPENDED: "spec.suspend stopped it. Counts against nothing.",
}


def render_markdown() -> str:
    """Give docs/conditions.md."""
    parts = [
        "# Conditions and reasons",
        "",
        "Generated from `operator/tunesmith_api/meanings.py` by `make generate`. Do not edit.",
    ]
    tables: list[tuple[str, dict[str, str]]] = [
        ("Conditions of a FineTuneJob", {k.value: v for k, v in CONDITION_MEANINGS.items()}),
        ("Reasons", {k.value: v for k, v in REASON_MEANINGS.items()}),
        (
            "Reasons of a job that only its author can mend",
            {k.value: v for k, v in USER_ERROR_MEANINGS.items()},
        ),
        ("Reasons of an attempt's end", {k.value: v for k, v in ATTEMPT_MEANINGS.items()}),
        (
            "Conditions of a ModelVersion",
            {k.value: v for k, v in VERSION_CONDITION_MEANINGS.items()},
        ),
        (
            "Reasons of a ModelVersion",
            {k.value: v for k, v in VERSION_REASON_MEANINGS.items()},
        ),
        (
            "Conditions of a ModelDeployment",
            {k.value: v for k, v in DEPLOYMENT_CONDITION_MEANINGS.items()},
        ),
        (
            "Reasons of a ModelDeployment",
            {k.value: v for k, v in DEPLOYMENT_REASON_MEANINGS.items()},
        ),
        ("Reasons of a rollback", {k.value: v for k, v in ROLLBACK_MEANINGS.items()}),
    ]
    for title, rows in tables:
        parts += ["", f"## {title}", "", "| word | meaning |", "| --- | --- |"]
        parts += [f"| `{word}` | {meaning} |" for word, meaning in rows.items()]
    return "\n".join(parts) + "\n"
