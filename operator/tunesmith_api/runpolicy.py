"""How a FineTuneJob's run bears interruptions: checkpoints, repeats, time limits, what stays."""

from typing import Annotated, Literal

from pydantic import Field

from tunesmith_api.meta import OptionalName, Seconds, Spec, section


class CheckpointPolicy(Spec):
    """When the state of training is saved, so that an interruption costs little."""

    every_steps: Annotated[int, Field(ge=1, le=1_000_000)] = 100
    """Optimizer steps between two checkpoints. One more is saved on SIGTERM."""
    keep_last: Annotated[int, Field(ge=2, le=20)] = 2
    """How many checkpoints are kept. All are deleted after success."""
    grace_period_seconds: Annotated[int, Field(ge=5, le=3600)] = 120
    """Time for the checkpoint on SIGTERM before the pod is killed."""
    resume: Literal["Auto", "Never"] = "Auto"
    """Auto goes on from the newest complete checkpoint, or the one before if that is damaged; the
    job fails where they were made with other settings or data. Never deletes them and starts
    anew."""


class StageTimeouts(Spec):
    """Longest time of each part of an attempt, from its start."""

    prepare: Seconds = 3600
    """Seconds for the prepare pod."""
    train: Seconds = 0
    """Seconds from the pods' start to the end of training; 0 is no limit."""
    evaluate: Seconds = 7200
    """Seconds for evaluation."""
    export: Seconds = 7200
    """Seconds for export, and as many again for the upload."""


class RunPolicy(Spec):
    """How often, how long, and what stays."""

    backoff_limit: Annotated[int, Field(ge=0, le=100)] = 3
    """Failed attempts that are followed by another one. Errors that a repeat cannot mend end the
    job at once."""
    disruption_limit: Annotated[int, Field(ge=0, le=1000)] = 20
    """Evictions, preemptions and lost nodes that are followed by another attempt."""
    active_deadline_seconds: Seconds = 0
    """Seconds from the job's first start to its failure; time suspended counts. 0 is no limit."""
    stall_timeout_seconds: Annotated[int, Field(ge=10, le=86_400)] = 900
    """Seconds without any progress of the trainer after which the attempt is replaced."""
    stage_timeout_seconds: StageTimeouts = Field(
        default_factory=StageTimeouts, json_schema_extra=section()
    )
    """Longest time of each part of an attempt."""
    ttl_seconds_after_finished: Seconds | None = None
    """Seconds from the end of the job to its deletion. The ModelVersion stays. Absent: never."""
    priority_class_name: OptionalName = ""
    """Priority class of the pods; a change counts from the next attempt."""
