"""What the operator and the sidecars of pods that serve adapters say to each other.

The operator PUTs the whole set of wanted adapters to each pod; the sidecar answers, to that and to
GET, with what it was told last and how far each adapter is. Both are JSON at ``ADAPTERS_PATH`` of
the pod's own port; every adapter is served on a port of its own. The same set may be sent any
number of times. Not part of any resource.
"""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from tunesmith_api.meta import Digest, S3Uri, Spec
from tunesmith_api.router import RevisionName

ADAPTERS_PATH = "/v1/adapters"
ADAPTERS_VERSION: Literal["tunesmith.dev/adapters.v1"] = "tunesmith.dev/adapters.v1"
_FIRST_PORT, _PORTS = 10_000, 20_000


def adapter_port(number: int) -> int:
    """Port of the revision with this number, in all pods that hold its adapter.

    It follows from the number, so nobody has to remember it. Below the ports that Linux gives to
    outgoing connections; two revisions of a deployment share one only 20 000 revisions apart.
    """
    return _FIRST_PORT + number % _PORTS


class WantedAdapter(Spec):
    """An adapter that a pod should serve."""

    revision: RevisionName
    """The revision it makes; the name under which the engine knows it."""
    uri: S3Uri
    """s3://BUCKET/PREFIX/ that holds the files and their manifest.json."""
    digest: Digest
    """sha256 of manifest.json."""
    port: Annotated[int, Field(ge=1, le=65_535)]
    """Where the pod takes the revision's requests."""
    is_required: bool
    """Whether the pod is ready only with it: it has traffic, or may have it back at any time."""


class WantedAdapters(Spec):
    """All that a pod should serve, from the operator."""

    schema_version: Literal["tunesmith.dev/adapters.v1"] = ADAPTERS_VERSION
    """Format of this message."""
    adapters: Annotated[tuple[WantedAdapter, ...], Field(max_length=16)] = ()
    """Every adapter; what is not among them is unloaded once its last request is answered."""


class AdapterPhase(StrEnum):
    """How far an adapter is."""

    FETCHING = "Fetching"
    LOADING = "Loading"
    LOADED = "Loaded"
    FAILED = "Failed"
    REFUSED = "Refused"


class HeldAdapter(Spec):
    """An adapter as a pod has it."""

    revision: RevisionName
    """The revision."""
    digest: Digest
    """What was, or will be, verified."""
    phase: AdapterPhase
    """Loaded: verified and in the engine. Failed: tried again. Refused: for good."""
    message: Annotated[str, Field(max_length=1024)] = ""
    """Why it failed or was refused."""


class AdaptersReport(Spec):
    """What a pod serves, from its sidecar."""

    schema_version: Literal["tunesmith.dev/adapters.v1"] = ADAPTERS_VERSION
    """Format of this message."""
    wanted: WantedAdapters | None = None
    """What it was told last. None: nothing yet."""
    held: Annotated[tuple[HeldAdapter, ...], Field(max_length=64)] = ()
    """Every adapter it has anything of, also one that is on its way out."""
