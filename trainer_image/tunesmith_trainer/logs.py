"""Structured logs: one JSON object a line on stdout, so that ``kubectl logs`` can be searched.

Every line names the job, the stage and the attempt. Configured once by ``__main__``.
"""

import logging
import sys

import structlog

from tunesmith_api.run import TrainingRun

log: structlog.stdlib.BoundLogger = structlog.get_logger()


def configure_logs(level: int = logging.INFO) -> None:
    """Send our own lines to stdout as JSON; libraries' warnings go to stderr as they are."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stdout),
        cache_logger_on_first_use=False,
    )


def name_the_run(run: TrainingRun) -> None:
    """Put the run's names on every further line of this process."""
    structlog.contextvars.bind_contextvars(
        job=f"{run.job.namespace}/{run.job.name}", stage=run.stage.value, attempt=run.attempt
    )
