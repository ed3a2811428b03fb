"""Errors as OpenAI's clients expect them, and how answers of ours are made.

Pure. Called by whoever answers a client; messages never hold text of a request.
"""

from typing import Any

import orjson
from aiohttp import web

JSON_TYPE = "application/json"


def json_answer(value: Any, status: int = 200) -> web.Response:
    """Answer with JSON."""
    return web.Response(body=orjson.dumps(value), status=status, content_type=JSON_TYPE)


def error_body(message: str, kind: str, code: str) -> bytes:
    """Return an error in OpenAI's form."""
    return orjson.dumps({"error": {"message": message, "type": kind, "param": None, "code": code}})


def error_answer(status: int, message: str, code: str, **headers: str) -> web.Response:
    """Answer with an error; ``headers`` are named with underscores for dashes."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    if status == 429:
        kind = "rate_limit_error"
    return web.Response(
        body=error_body(message, kind, code),
        status=status,
        content_type=JSON_TYPE,
        headers={name.replace("_", "-"): text for name, text in headers.items()},
    )
