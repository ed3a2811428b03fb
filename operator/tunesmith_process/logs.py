"""Logs: one JSON object a line, so that ``kubectl logs`` can be searched.

Configured once by a program's ``main``. The operator does it in another way: kopf and aiohttp log
through the standard library there, and their lines are to be JSON too.
"""

import logging
from typing import TextIO

import structlog

log: structlog.stdlib.BoundLogger = structlog.get_logger()


def configure_logs(level: str, stream: TextIO, **names: str) -> None:
    """Send our own lines to ``stream``, each with ``names``; libraries' warnings go as they are."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level)),
        logger_factory=structlog.PrintLoggerFactory(stream),
        cache_logger_on_first_use=False,
    )
    structlog.contextvars.bind_contextvars(**names)
