"""HAProxy's files: the configuration, its Lua, the map that will hold the split.

Written once, before HAProxy starts, by ``python -m tunesmith_router init``. They depend on the
settings only, never on a state: that is told to HAProxy at run time by ``router``.
"""

import json
from importlib.resources import files
from math import ceil
from pathlib import Path
from string import Template

from tunesmith_router.placement import SLOTS, UNCHECKED, slot_name
from tunesmith_router.settings import Settings
from tunesmith_router.split import NOTHING, SPLIT_KEY

# Buffers hold a request's head too, in HAProxy's own, longer form.
_HEAD_BYTES = 16_384
_CONNECTIONS_A_COPY = 2
_SPARE_CONNECTIONS = 20
_ERRORS = {
    400: ("The request is not valid HTTP.", "bad_request"),
    408: ("The request did not come in time.", "request_timeout"),
    500: ("The router failed.", "router_error"),
    502: ("The endpoint ended without a whole answer.", "endpoint_error"),
    503: ("No endpoint is ready.", "no_endpoint"),
    504: ("The endpoint did not answer in time.", "endpoint_timeout"),
}
_RETRY_AFTER = {503: " hdr Retry-After 1"}


def write_configuration(settings: Settings) -> None:
    """Write all files into the shared folder. Raises OSError."""
    values = _values(settings)
    settings.folder.mkdir(parents=True, exist_ok=True)
    for name in ("haproxy.cfg", "router.lua"):
        template = Template((files("tunesmith_router") / name).read_text())
        _write(settings.folder / name, template.substitute(values))
    _write(settings.split_map, f"{SPLIT_KEY} {NOTHING}\n")


def _values(settings: Settings) -> dict[str, object]:
    copies = settings.max_mirrors * _CONNECTIONS_A_COPY
    address = settings.listen_address
    return settings.model_dump(exclude={"token_digest"}) | {
        # A name with a family, as colons alone do not tell address from port.
        "listen_address": f"ipv6@[{address}]" if ":" in address else f"ipv4@{address}",
        "total_connections": settings.max_connections + copies + _SPARE_CONNECTIONS,
        "drain_ms": _milliseconds(settings.drain_timeout_seconds),
        "connect_ms": _milliseconds(settings.connect_timeout_seconds),
        "client_ms": _milliseconds(settings.client_timeout_seconds),
        "server_ms": _milliseconds(settings.server_timeout_seconds),
        "copy_ms": _milliseconds(settings.server_timeout_seconds * 2),
        "mirror_bytes": settings.buffer_bytes - _HEAD_BYTES,
        "max_mirrors_per_thread": ceil(settings.max_mirrors / settings.threads),
        "http_errors": "\n".join(
            f"    http-error status {status} {_body(*said)}{_RETRY_AFTER.get(status, '')}"
            for status, said in _ERRORS.items()
        ),
        "not_found": _body("There is no such path.", "unknown_path", "invalid_request_error"),
        "unchecked": UNCHECKED,
        "slots": "\n".join(
            f"backend {slot_name(n)} from slots\nbackend {slot_name(n)}{UNCHECKED} from unchecked"
            for n in range(SLOTS)
        ),
    }


def _milliseconds(seconds: float) -> int:
    return max(round(seconds * 1000), 1)


def _body(message: str, code: str, kind: str = "server_error") -> str:
    error = {"error": {"message": message, "type": kind, "param": None, "code": code}}
    return f"content-type application/json string '{json.dumps(error)}'"


def _write(path: Path, text: str) -> None:
    path.write_text(text)
    # Another container reads it, perhaps under another id of the same group.
    path.chmod(0o640)
