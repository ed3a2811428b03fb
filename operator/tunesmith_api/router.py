"""What the operator and the router's agent say to each other.

The operator PUTs the whole wanted state to every router pod; the agent answers, to that and to
GET, with what the router does now and what it has counted. Both are JSON at ``ROUTER_STATE_PATH``.
The same state may be sent any number of times. Not part of any resource.
"""

from typing import Annotated, Literal

from pydantic import Field

from tunesmith_api.meta import Spec

ROUTER_PORT = 8000
"""Where clients' requests come in."""
AGENT_PORT = 8404
"""Where the agent listens; the operator's Bearer token is asked for."""
ROUTER_STATE_PATH = "/v1/state"
ROUTER_VERSION: Literal["tunesmith.dev/router.v1"] = "tunesmith.dev/router.v1"

RevisionName = Annotated[str, Field(max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")]
Percent = Annotated[int, Field(ge=0, le=100)]
Count = Annotated[int, Field(ge=0)]


class RouterEndpoint(Spec):
    """A pod that is ready."""

    address: Annotated[str, Field(min_length=2, max_length=45, pattern=r"^[0-9A-Fa-f.:]+$")]
    """Its IP address."""
    port: Annotated[int, Field(ge=1, le=65_535)]
    """Port of its sidecar."""


class RouterRevision(Spec):
    """A revision that requests can be sent to."""

    name: RevisionName
    """Its name."""
    endpoints: Annotated[tuple[RouterEndpoint, ...], Field(max_length=1000)] = ()
    """Its ready pods."""


class RouterSplit(Spec):
    """Where requests go: all to ``main``, but ``weight`` percent to ``canary``."""

    main: RevisionName
    """The revision that gets the rest."""
    canary: RevisionName | None = None
    """The revision that gets ``weight`` percent of the requests, or copies."""
    weight: Percent = 0
    """Percent of the requests that the canary answers."""
    mirror_percent: Percent = 0
    """Percent of the requests that the canary gets a copy of; its answers are thrown away."""


class RouterState(Spec):
    """All that a router should do, from the operator."""

    schema_version: Literal["tunesmith.dev/router.v1"] = ROUTER_VERSION
    """Format of this message."""
    split: RouterSplit
    """Where requests go."""
    revisions: Annotated[tuple[RouterRevision, ...], Field(max_length=16)] = ()
    """Every revision that may get any; those in the split are among them."""
    sticky_header: Annotated[str, Field(max_length=64, pattern=r"^[A-Za-z0-9-]*$")] = ""
    """Requests with the same value of this header go to the same revision. Empty: none."""


class RouterCounts(Spec):
    """What a router pod has counted of a revision since it was last taken in."""

    name: RevisionName
    """The revision."""
    requests: Count = 0
    """Answers to clients, good ones and others."""
    errors: Count = 0
    """Answers of 500 and above, and requests that got none."""
    consecutive_errors: Count = 0
    """Failed ones since the last good one."""
    endpoints_up: Count = 0
    """Endpoints that pass the router's own health check."""


class RouterReport(Spec):
    """What a router pod does, from its agent."""

    schema_version: Literal["tunesmith.dev/router.v1"] = ROUTER_VERSION
    """Format of this message."""
    split: RouterSplit | None = None
    """What is in effect. None: it was never told, or HAProxy does not answer."""
    counts: Annotated[tuple[RouterCounts, ...], Field(max_length=16)] = ()
    """Every revision that the router knows."""
