"""For all tests: log lines are made, so that a broken one is found, and go nowhere.

Examples that are made up are the same each time, and how long that takes is no failure: what a
change is let in by depends on neither chance nor how busy a machine is. With
`--hypothesis-profile=default` they are new ones.
"""

import structlog
from hypothesis import HealthCheck, settings

structlog.configure(
    processors=[structlog.contextvars.merge_contextvars, structlog.processors.KeyValueRenderer()],
    logger_factory=structlog.ReturnLoggerFactory(),
    cache_logger_on_first_use=False,
)
settings.register_profile(
    "same-each-time",
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("same-each-time")
