"""The closed set of things a decision can ask for, and the decision itself.

Data only: reconcile/ carries them out and mypy's assert_never makes sure that it knows them all.
Each may be carried out twice with the same result.
"""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal

from tunesmith_api.jobstatus import FineTuneJobStatus
from tunesmith_api.modelversion import ModelVersionSpec
from tunesmith_api.run import TrainingRun


@dataclass(frozen=True, slots=True)
class StartAttempt:
    """Create the attempt's Job, and the Service that its pods meet by if it has several."""

    job_name: str
    run: TrainingRun


@dataclass(frozen=True, slots=True)
class StopAttempt:
    """Delete the attempt's Job and wait for its pods: they get SIGTERM and their grace period."""

    job_name: str
    uid: str


@dataclass(frozen=True, slots=True)
class DeleteAttempt:
    """Delete the Job of an attempt that ended long ago."""

    job_name: str
    uid: str


@dataclass(frozen=True, slots=True)
class MakeVersion:
    """Create the ModelVersion."""

    name: str
    spec: ModelVersionSpec
    job_uid: str


@dataclass(frozen=True, slots=True)
class DeleteSelf:
    """Delete the FineTuneJob: its time to live after the end is over."""

    uid: str


@dataclass(frozen=True, slots=True)
class Emit:
    """Record an Event on the object."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


Action = StartAttempt | StopAttempt | DeleteAttempt | MakeVersion | DeleteSelf | Emit


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do, what to say, and when to look again."""

    status: FineTuneJobStatus
    actions: tuple[Action, ...] = ()
    look_again: timedelta | None = field(default=None)
    """None: only when something changes."""
    before_start: FineTuneJobStatus | None = field(default=None)
    """The status without the attempt that is started now: what stays true if that is refused. None
    where none is started."""
