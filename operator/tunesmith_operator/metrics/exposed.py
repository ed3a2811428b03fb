"""Names of what every serving pod exposes, and what of it counts. The sidecar writes them.

The operator and the sidecar do not import each other; a test asks a real sidecar for each name.
Read by ``scraping`` and by the queries of ``prometheus``.
"""

REQUESTS = "tunesmith_serving_requests_total"
ERRORS = "tunesmith_serving_errors_total"
LATENCY = "tunesmith_serving_request_seconds"
FIRST_TOKEN = "tunesmith_serving_time_to_first_token_seconds"  # noqa: S105 - tokens of text
TOKENS_PER_SECOND = "tunesmith_serving_tokens_per_second"
FAILED_IN_A_ROW = "tunesmith_serving_failed_in_a_row"
STARTED = "process_start_time_seconds"

ROUTES = ("chat", "completions", "predict")
"""Routes that ask the model. A list of models or feedback would only dilute what is measured."""
EXCUSED_CODES = ("401", "413", "429", "499")
"""Answers that say nothing of the revision: refused before it was asked, or given up by clients."""
ENGINE_AWAY = "engine_unavailable"
"""The cause of a failed request whose engine was not there, or ended before its answer did."""
FAULTS = ("timeout", ENGINE_AWAY, "engine_error", "internal")
"""Causes of a failed request that are the revision's: its engine's, or its own pod's."""
