"""Attempts at a job's stages: what the status says of each, and how they are counted.

Part of a FineTuneJob's status. Written by the operator, whose budgets count on them.
"""

from datetime import datetime
from enum import StrEnum
from typing import Annotated

from pydantic import Field

from tunesmith_api.meta import Status, Text


class StageName(StrEnum):
    """A pod's part of the work."""

    PREPARE = "prepare"
    TRAIN = "train"


class AttemptReason(StrEnum):
    """Why an attempt ended."""

    SUCCEEDED = "Succeeded"
    EVICTED = "Evicted"
    OUT_OF_MEMORY = "OutOfMemory"
    IMAGE_PULL = "ImagePull"
    USER_ERROR = "UserError"
    INFRASTRUCTURE = "Infrastructure"
    STALLED = "Stalled"
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    SUSPENDED = "Suspended"


class StageTimes(Status):
    """When a stage began and ended, over all attempts."""

    name: StageName
    """prepare or train."""
    start_time: datetime
    """Creation of its first attempt."""
    completion_time: datetime | None = None
    """End of its last attempt."""


class Attempt(Status):
    """One try at a stage."""

    number: Annotated[int, Field(ge=1)]
    """Counts the attempts of the job, over all stages."""
    stage: StageName
    """prepare or train."""
    reason: AttemptReason
    """Why it ended."""
    message: Text = ""
    """The same as a sentence."""
    start_time: datetime | None = None
    """Creation of its Job."""
    completion_time: datetime | None = None
    """When its end was seen."""
    start_step: Annotated[int, Field(ge=0)] = 0
    """Optimizer step it began at."""
    end_step: Annotated[int, Field(ge=0)] = 0
    """Last optimizer step it was seen at."""
    lost_steps: Annotated[int, Field(ge=0)] = 0
    """Steps since the last checkpoint, which the next attempt does again."""
    exit_code: int | None = None
    """Exit code of the container that decided."""


class ActiveAttempt(Status):
    """The attempt that runs, or whose end has not been recorded yet."""

    number: Annotated[int, Field(ge=1)]
    """Counts the attempts of the job, over all stages."""
    stage: StageName
    """prepare or train."""
    job_name: Annotated[str, Field(max_length=63)]
    """Name of its Job."""
    start_time: datetime
    """When it was asked for."""
    running_time: datetime | None = None
    """When its first pod began to run."""
    notes: Annotated[tuple[Text, ...], Field(max_length=8)] = ()
    """Why it did not use checkpoints that were there, such as damage. Each is an Event as well."""
    stop_reason: AttemptReason | None = None
    """Why the operator stops it, once it does."""
    stop_message: Text = ""
    """The same as a sentence."""


class Counters(Status):
    """Attempts counted against the budgets; status.attempts forgets, these do not."""

    attempts: Annotated[int, Field(ge=0)] = 0
    """Attempts that have ended, over all stages."""
    failures: Annotated[int, Field(ge=0)] = 0
    """Counted against runPolicy.backoffLimit."""
    disruptions: Annotated[int, Field(ge=0)] = 0
    """Counted against runPolicy.disruptionLimit."""
    batch_halvings: Annotated[int, Field(ge=0)] = 0
    """Times the batch was halved after running out of memory."""
