"""The router's settings.

Only types and the parser; nothing here reads the environment itself. A field ``agent_port`` is the
variable TUNESMITH_ROUTER_AGENT_PORT and the option --agent-port. Read by ``main``; everybody else
gets :class:`Settings`.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from tunesmith_api.meta import Digest
from tunesmith_api.router import AGENT_PORT, ROUTER_PORT
from tunesmith_process.settings import LogLevel, ProcessSettings, add_options, parse_variables

PREFIX = "TUNESMITH_ROUTER_"
Command = Literal["init", "agent"]

Seconds = Annotated[float, Field(gt=0, le=86_400)]


def _plain(path: Path) -> Path:
    # It is written into HAProxy's configuration, where blanks and quotes would mean something, and
    # the path of a Unix socket has at most 107 characters.
    text = str(path)
    if not path.is_absolute() or len(text) > 80 or set(text) & set(" \t\n'\"\\#$;%"):
        raise ValueError("must be absolute, at most 80 characters, without blanks and quotes")
    return path


class Settings(ProcessSettings):
    """All that the router is told from outside."""

    folder: Annotated[Path, AfterValidator(_plain)] = Path("/run/tunesmith-router")
    """Folder that HAProxy and the agent share: configuration, sockets, the last state."""
    token_digest: Digest | None = None
    """sha256 of the token that the operator must send. The token itself is not here: who may read
    pods must not move traffic. The agent needs it, init does not."""
    listen_address: Annotated[str, Field(pattern=r"^[0-9A-Fa-f.:]+$")] = "0.0.0.0"  # noqa: S104  a pod's own network namespace
    """Address that router and agent listen on; :: for both families."""
    router_port: Annotated[int, Field(ge=1, le=65_535)] = ROUTER_PORT
    """Port for clients."""
    agent_port: Annotated[int, Field(ge=0, le=65_535)] = AGENT_PORT
    """Port of the agent. 0: any free one."""
    threads: Annotated[int, Field(ge=1, le=64)] = 2
    """HAProxy's threads; its own default would be one for each core of the node."""
    max_connections: Annotated[int, Field(ge=10, le=1_000_000)] = 2000
    """Clients at the same time; more wait in the kernel's queue."""
    buffer_bytes: Annotated[int, Field(ge=32_768, le=1 << 20)] = 65_536
    """Size of HAProxy's buffers, in bytes. Requests are mirrored whose body is 16 KiB smaller."""
    max_mirrors: Annotated[int, Field(ge=1, le=10_000)] = 32
    """Copies in flight; beyond that requests are not mirrored."""
    connect_timeout_seconds: Seconds = 2.0
    """For a connection to an endpoint; then another endpoint is tried."""
    server_timeout_seconds: Seconds = 600.0
    """Longest silence of an endpoint, before its answer or within it; keep it above the sidecar's
    request_timeout_seconds, whose answer says more."""
    client_timeout_seconds: Seconds = 60.0
    """Longest silence of a client that still has to send, or to read."""
    check_interval_seconds: Annotated[float, Field(ge=0.1, le=60)] = 1.0
    """Between two health checks of an endpoint."""
    endpoint_wait_seconds: Seconds = 3.0
    """How long a new split waits for an endpoint that passes, before it is refused."""
    drain_timeout_seconds: Seconds = 600.0
    """Longest time for requests in flight when the pod ends."""
    log_level: LogLevel = "INFO"
    """Of the agent's log."""

    @property
    def admin_socket(self) -> Path:
        """HAProxy's admin socket; on no network."""
        return self.folder / "admin.sock"

    @property
    def answers_socket(self) -> Path:
        """Where the agent listens for HAProxy's line about each answer."""
        return self.folder / "answers.sock"

    @property
    def split_map(self) -> Path:
        """HAProxy's map with the split; its content at run time is in HAProxy's memory only."""
        return self.folder / "split.map"

    @property
    def memory_file(self) -> Path:
        """What the agent must know after a restart."""
        return self.folder / "memory.json"


def parse_settings(
    environment: Mapping[str, str], arguments: Sequence[str]
) -> tuple[Command, Settings]:
    """Parse the variables with our prefix and the command line. Raises SettingsError."""
    parser = argparse.ArgumentParser(
        prog="tunesmith-router",
        description=f"The agent beside HAProxy. --some-option is {PREFIX}SOME_OPTION.",
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument(
        "command",
        nargs="?",
        choices=("init", "agent"),
        default="agent",
        help="init: write HAProxy's files and end; agent: serve (the default)",
    )
    add_options(parser, Settings)
    options = vars(parser.parse_args(arguments))
    command: Command = "init" if options.pop("command") == "init" else "agent"
    return command, parse_variables(Settings, PREFIX, environment, options)
