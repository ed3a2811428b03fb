"""The operator's own Prometheus metrics, all named in one place.

Labels have few values, never an object's name. Written by the queue, the client and the
reconcilers; served at /metrics by handlers/probes.py.
"""

from collections.abc import Mapping

from prometheus_client import REGISTRY, Counter, Gauge, Histogram, generate_latest

from tunesmith_api.attempts import AttemptReason
from tunesmith_api.deploymentstatus import ModelDeploymentStatus, RolloutPhase
from tunesmith_api.jobstatus import DisplayStage, FineTuneJobStatus

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_DETECTION_SECONDS = (1, 2.5, 5, 10, 30, 60, 120, 300, 900, 1800, 3600, 4 * 3600)
_STAGE_SECONDS = (1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 12 * 3600, 24 * 3600, 72 * 3600)

RECONCILES = Counter(
    "tunesmith_reconciles_total", "Passes by their result: ok, error or fenced.", ["kind", "result"]
)
RECONCILE_SECONDS = Histogram(
    "tunesmith_reconcile_seconds", "Time of a pass.", ["kind"], buckets=_SECONDS
)
QUEUE_LATENCY_SECONDS = Histogram(
    "tunesmith_queue_latency_seconds",
    "From the change of an object to the end of the pass over it.",
    ["kind"],
    buckets=_SECONDS,
)
QUEUE_DEPTH = Gauge("tunesmith_queue_depth", "Objects that wait for a pass.")
QUEUE_RUNNING = Gauge("tunesmith_queue_running", "Passes that are running.")
QUEUE_OLDEST_SECONDS = Gauge(
    "tunesmith_queue_oldest_seconds", "How long the first object in the queue has waited."
)
WATCH_AGE_SECONDS = Gauge(
    "tunesmith_watch_age_seconds",
    "Seconds since a resource's watch gave a sign.",
    ["resource"],
)
WATCH_MISSED = Counter(
    "tunesmith_watch_missed_total", "Objects whose change a resync found before an event.", ["kind"]
)
HANDLER_ERRORS = Counter(
    "tunesmith_handler_errors_total", "Events that could not be taken in.", ["kind"]
)
CACHED_OBJECTS = Gauge("tunesmith_cached_objects", "Objects in the cache.", ["kind"])
RESYNC_SECONDS = Histogram("tunesmith_resync_seconds", "Time of a resync.", buckets=_SECONDS)
API_REQUESTS = Counter(
    "tunesmith_api_requests_total",
    "Calls to the API server; code 0 means that no answer came.",
    ["verb", "kind", "code"],
)
IS_LEADER = Gauge("tunesmith_is_leader", "1 while this operator may write.")
JOBS = Gauge("tunesmith_finetunejobs", "FineTuneJobs by stage.", ["stage"])
ATTEMPTS = Counter(
    "tunesmith_attempts_total", "Attempts that ended, by stage and cause.", ["stage", "reason"]
)
STAGE_SECONDS = Histogram(
    "tunesmith_stage_seconds",
    "Time of an attempt that succeeded.",
    ["stage"],
    buckets=_STAGE_SECONDS,
)
DEPLOYMENTS = Gauge("tunesmith_modeldeployments", "ModelDeployments by phase.", ["phase"])
ROLLOUTS = Counter("tunesmith_rollouts_total", "Roll-outs that ended, by outcome.", ["outcome"])
ROLLBACKS = Counter("tunesmith_rollbacks_total", "Rejected revisions, by cause.", ["reason"])
DETECTION_SECONDS = Histogram(
    "tunesmith_rollback_detection_seconds",
    "From a rejected revision's first request to the decision.",
    buckets=_DETECTION_SECONDS,
)
RESTORATION_SECONDS = Histogram(
    "tunesmith_rollback_restoration_seconds",
    "From the decision until the rejected revision had no traffic.",
    buckets=_SECONDS,
)
TRAINER_POLLS = Counter(
    "tunesmith_trainer_polls_total",
    "Questions to trainers about their progress: ok, unreachable or unreadable.",
    ["result"],
)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def note_attempts(before: FineTuneJobStatus, now: FineTuneJobStatus) -> None:
    """Count the attempts that a pass wrote down as ended. Called after the status was written."""
    for attempt in now.attempts:
        if attempt.number <= before.counters.attempts:
            continue
        ATTEMPTS.labels(attempt.stage, attempt.reason).inc()
        start, end = attempt.start_time, attempt.completion_time
        if attempt.reason is AttemptReason.SUCCEEDED and start and end:
            STAGE_SECONDS.labels(attempt.stage).observe((end - start).total_seconds())


def note_rollouts(before: ModelDeploymentStatus, now: ModelDeploymentStatus) -> None:
    """Count the roll-outs that a pass wrote down as ended, and what going back has cost.

    Called after the status was written.
    """
    for entry in now.history:
        if entry not in before.history:
            ROLLOUTS.labels(entry.outcome).inc()
    rollback, known = now.last_rollback, before.last_rollback
    if rollback is None:
        return
    if known is not None and known.time != rollback.time:
        known = None
    if known is None:
        ROLLBACKS.labels(rollback.reason).inc()
        DETECTION_SECONDS.observe(rollback.detected_after_seconds)
    restored = rollback.restored_after_milliseconds
    if restored is not None and (known is None or known.restored_after_milliseconds is None):
        RESTORATION_SECONDS.observe(restored / 1000)


def note_stages(jobs: Mapping[str, int], deployments: Mapping[str, int]) -> None:
    """Set how many objects are in each stage or phase; those that are not named have none."""
    for stage in DisplayStage:
        JOBS.labels(stage).set(jobs.get(stage, 0))
    for phase in RolloutPhase:
        DEPLOYMENTS.labels(phase).set(deployments.get(phase, 0))


def render() -> bytes:
    """Return all metrics in Prometheus' text format."""
    return generate_latest(REGISTRY)
