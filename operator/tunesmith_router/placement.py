"""Where a revision is in HAProxy, and which servers must change for a new state.

Pure. A revision has a slot, one of HAProxy's backends, as long as it is among the revisions, and a
mark since it was last taken into the split: requests carry slot and mark, so what an earlier try
of the same revision still answers is not counted for this one. Called by ``router``.
"""

from collections.abc import Callable, Mapping
from ipaddress import ip_address
from typing import Annotated, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from tunesmith_api.router import RouterEndpoint, RouterState

# Twice what a state may hold: a new revision never gets a slot that the state before still uses.
SLOTS = 32
UNCHECKED = "-unchecked"
"""Ends the name of a slot's other backend: the same endpoints, whatever their checks say."""


class Placement(BaseModel):
    """Slots and marks by a revision's name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    slots: Mapping[str, Annotated[int, Field(ge=0, lt=SLOTS)]] = {}
    marks: Mapping[str, str] = {}
    """Only of revisions that are, or were, in the split."""


class ServerId(NamedTuple):
    """A server's place and name in HAProxy."""

    slot: str
    name: str

    @property
    def is_checked(self) -> bool:
        """Whether it gets requests only while it passes its check."""
        return not self.slot.endswith(UNCHECKED)

    def __str__(self) -> str:
        """Give it as HAProxy's commands want it."""
        return f"{self.slot}/{self.name}"


class Changes(NamedTuple):
    """What must be done with servers, in this order, the split between the second and the last."""

    add: dict[ServerId, RouterEndpoint]
    keep: list[ServerId]
    """Those there already; some may have been draining."""
    drain: list[ServerId]


def slot_name(number: int) -> str:
    """Give the name of a slot's backend."""
    return f"slot{number}"


def place(
    placement: Placement,
    before: RouterState | None,
    state: RouterState,
    new_mark: Callable[[], str],
) -> Placement:
    """Give every revision of the state its slot, and those in the split their mark."""
    names = [revision.name for revision in state.revisions]
    taken = set(placement.slots.values())
    free = (number for number in range(SLOTS) if number not in taken)
    slots = {n: placement.slots[n] if n in placement.slots else next(free) for n in names}
    in_split = members(state)
    stayed = members(before) & {r.name for r in before.revisions} if before else set()
    marks: dict[str, str] = {}
    for name in names:
        if name in in_split and not (name in stayed and name in placement.marks):
            marks[name] = new_mark()
        elif name in placement.marks:
            marks[name] = placement.marks[name]
    return Placement(slots=slots, marks=marks)


def members(state: RouterState) -> set[str]:
    """Give the revisions that the split names."""
    return {name for name in (state.split.main, state.split.canary) if name}


def plan_changes(servers: set[ServerId], wanted: Mapping[ServerId, RouterEndpoint]) -> Changes:
    """Compare HAProxy's servers with the wanted ones."""
    return Changes(
        add={server: endpoint for server, endpoint in wanted.items() if server not in servers},
        keep=sorted(servers & set(wanted)),
        drain=sorted(servers - set(wanted)),
    )


def wanted_servers(state: RouterState, placement: Placement) -> dict[ServerId, RouterEndpoint]:
    """Give all servers that HAProxy should have for a state: two for each endpoint."""
    checked = {
        server_id(placement.slots[revision.name], endpoint): endpoint
        for revision in state.revisions
        for endpoint in revision.endpoints
    }
    return checked | {ServerId(s.slot + UNCHECKED, s.name): e for s, e in checked.items()}


def server_id(slot: int, endpoint: RouterEndpoint) -> ServerId:
    """Give the id of an endpoint's checked server in a slot."""
    # Addresses have many spellings; one endpoint must not become two servers.
    return ServerId(slot_name(slot), f"{ip_address(endpoint.address).compressed}:{endpoint.port}")


def rising(before: RouterState | None, state: RouterState) -> list[str]:
    """Give the revisions whose share of the requests grows.

    Not a main that stays main: taking weight from a canary must never be refused.
    """
    if before is None:
        return []
    old = before.split
    grows = []
    if state.split.main != old.main:
        grows.append(state.split.main)
    canary = state.split.canary
    if canary and state.split.weight > _share(before, canary):
        grows.append(canary)
    return grows


def _share(state: RouterState, name: str) -> int:
    split = state.split
    if name == split.main:
        return 100 - split.weight
    return split.weight if name == split.canary else 0


def find_faults(state: RouterState) -> list[str]:
    """Say what is wrong with a state beyond the form of its fields."""
    faults = []
    names = [revision.name for revision in state.revisions]
    if len(set(names)) < len(names):
        faults.append("revisions: a name is there twice")
    faults += [f"split: {n!r} is not among revisions" for n in sorted(members(state) - set(names))]
    split = state.split
    if split.canary == split.main:
        faults.append("split: canary and main are the same revision")
    if split.canary is None and (split.weight or split.mirror_percent):
        faults.append("split: weight and mirrorPercent need a canary")
    for revision in state.revisions:
        for endpoint in revision.endpoints:
            try:
                ip_address(endpoint.address)
            except ValueError:
                faults.append(f"revisions: {endpoint.address!r} is not an IP address")
    return faults
