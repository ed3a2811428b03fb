"""Structured logs: every line names the job, the stage and the attempt.

How they are written is said once by ``__main__``, with ``tunesmith_process``.
"""

import structlog

from tunesmith_api.run import TrainingRun

log: structlog.stdlib.BoundLogger = structlog.get_logger()


def name_the_run(run: TrainingRun) -> None:
    """Put the run's names on every further line of this process."""
    structlog.contextvars.bind_contextvars(
        job=f"{run.job.namespace}/{run.job.name}", stage=run.stage.value, attempt=run.attempt
    )
