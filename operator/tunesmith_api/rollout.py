"""How a new revision takes over: capacity, steps, approval, fast failure, going back.

A section of a ModelDeployment's spec. Steps, analysis, fast failure and the ready timeout are
the plan, which is pinned by its digest when a roll-out starts.
"""

from enum import StrEnum
from typing import Annotated

from pydantic import ConfigDict, Field, JsonValue

from tunesmith_api.analysis import Analysis
from tunesmith_api.meta import Digest, HttpUrl, Rule, Spec, cel, section


class CapacityMode(StrEnum):
    """Where the canary's pods come from."""

    SURGE = "Surge"
    NO_SURGE = "NoSurge"


class Capacity(Spec):
    """Where the canary's pods come from."""

    mode: CapacityMode = CapacityMode.SURGE
    """Surge adds the canary's pods to those of stable, which keeps its size until the end.
    NoSurge never asks for more than spec.replicas pods: stable gives up one at a time and the
    weight follows the pods. For scarce GPUs: traffic runs on up to one pod less meanwhile, no
    stable is kept warm, and a rollback returns to what stable has left, which then grows back."""


class Step(Spec):
    """A share of the traffic and how long it is watched."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            Rule(
                "self.mirrorPercent == 0 || self.weight == 0",
                "mirrorPercent needs weight 0: a canary that answers itself gets no copies",
            )
        )
    )

    weight: Annotated[int, Field(ge=0, le=99)]
    """Percent of the requests that the canary answers. 0 is a dark launch: it answers nobody."""
    mirror_percent: Annotated[int, Field(ge=0, le=100)] = 0
    """Percent of the requests that a dark canary gets a copy of; its answers are thrown away. Not
    every Gateway can: Contour copies all of them, Traefik fails every request of such a route."""
    hold_seconds: Annotated[int, Field(ge=0, le=604_800)] = 300
    """Least time of the step. The next one follows then if the analysis passes."""


class Approval(StrEnum):
    """Who lets a canary that has passed all steps take over."""

    AUTOMATIC = "Automatic"
    MANUAL = "Manual"


class FailFast(Spec):
    """What ends a canary at once, without waiting for a sample."""

    consecutive_errors: Annotated[int, Field(ge=0, le=100_000)] = 20
    """Failed answers of the canary in a row, as one pod of the router counts them; with router
    GatewayAPI as one of the canary's own pods does. 0 is never."""
    restarts: Annotated[int, Field(ge=0, le=1000)] = 2
    """Restarts of the canary's containers; those that all containers of a pod go through together,
    as when its node is booted, are none. 0 is never."""


class Notification(Spec):
    """Who is told of a rollback."""

    url: HttpUrl
    """Gets one POST with the content of status.lastRollback. Not repeated if it fails."""


class Rollback(Spec):
    """How the way back is kept open."""

    automatic: bool = True
    """Whether a failed analysis sends the traffic back. False: the canary keeps its weight,
    never gets more, and Stalled says so. A canary without ready pods loses its traffic anyway."""
    keep_stable_warm_seconds: Annotated[int, Field(ge=0, le=604_800)] = 3600
    """How long the former stable's pods stay after a promotion. Until then they take the traffic
    over if the new stable breaks. With NoSurge they are gone at once."""
    fast_track_revisions: Annotated[int, Field(ge=0, le=10)] = 3
    """Going back to one of this many last promoted revisions skips steps and analysis."""
    notify: Notification | None = None
    """Who is told."""


_RISING = Rule(
    "self.map(s, s.weight).isSorted() && self.all(s, self.exists_one(t, t.weight == s.weight))",
    "weights of steps must rise; only the first may be 0, and the final 100 is implied",
)

_DEFAULT_STEPS: list[JsonValue] = [
    {"weight": 10, "mirrorPercent": 0, "holdSeconds": 300},
    {"weight": 50, "mirrorPercent": 0, "holdSeconds": 300},
]


class Rollout(Spec):
    """How a new revision takes over. The first one of all needs to be ready, nothing more."""

    capacity: Capacity = Field(default_factory=Capacity, json_schema_extra=section())
    """Where the canary's pods come from."""
    ready_timeout_seconds: Annotated[int, Field(ge=10, le=604_800)] = 1800
    """Seconds in which the canary's pods must become ready; after them it is rolled back."""
    steps: Annotated[tuple[Step, ...], Field(min_length=1, max_length=16)] = Field(
        default_factory=lambda: tuple(Step.model_validate(s) for s in _DEFAULT_STEPS),
        json_schema_extra={
            "default": _DEFAULT_STEPS,
            "x-kubernetes-list-type": "atomic",
            **cel(_RISING),
        },
    )
    """Shares of the traffic on the way to 100, which is implied. A change of steps, analysis,
    failFast or readyTimeoutSeconds in the middle of a roll-out starts it again at the first."""
    approval: Approval = Approval.AUTOMATIC
    """Manual: a canary that has passed all steps waits for approvedDigest."""
    approved_digest: Digest | None = None
    """status.canary.digest of the revision that may be promoted, with approval Manual. It names
    one revision, so it can be left in Git: it never approves another."""
    analysis: Analysis = Field(default_factory=Analysis, json_schema_extra=section())
    """How the canary is judged."""
    fail_fast: FailFast = Field(default_factory=FailFast, json_schema_extra=section())
    """What ends a canary at once."""
    rollback: Rollback = Field(default_factory=Rollback, json_schema_extra=section())
    """How the way back is kept open."""
