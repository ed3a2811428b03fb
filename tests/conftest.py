"""For all tests: log lines are made, so that a broken one is found, and go nowhere."""

import structlog

structlog.configure(
    processors=[structlog.contextvars.merge_contextvars, structlog.processors.KeyValueRenderer()],
    logger_factory=structlog.ReturnLoggerFactory(),
    cache_logger_on_first_use=False,
)
