"""Plays pods that adapters share: the sidecar's side of what the operator tells it.

Part of ``serving``'s cluster. An adapter is loaded in the turn after it was asked for, unless its
revision's behaviour says that it is refused or never ready.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tunesmith_api.adapters import (
    AdapterPhase,
    AdaptersReport,
    HeldAdapter,
    WantedAdapter,
    WantedAdapters,
)
from tunesmith_operator.kube.kinds import Object

if TYPE_CHECKING:
    from tests.integration.serving import Behaviour


@dataclass
class HostPod:
    """An engine with a base model, and its sidecar."""

    name: str
    token_digest: str
    behaviour: Callable[[int], Behaviour]
    """Of a revision, by its number."""
    told: list[WantedAdapters] = field(default_factory=list)
    loaded: set[str] = field(default_factory=set)

    @property
    def wanted(self) -> tuple[WantedAdapter, ...]:
        return self.told[-1].adapters if self.told else ()

    @property
    def is_ready(self) -> bool:
        needed = {a.revision for a in self.wanted if a.is_required}
        return bool(self.told) and needed <= self.loaded

    def allows(self, authorization: str) -> bool:
        token = authorization.removeprefix("Bearer ").encode()
        return f"sha256:{hashlib.sha256(token).hexdigest()}" == self.token_digest

    def take(self, wanted: WantedAdapters) -> None:
        self.told.append(wanted)
        self.loaded &= {a.revision for a in wanted.adapters}

    def load(self) -> list[WantedAdapter]:
        """Load what can be; give what is new."""
        new = [
            a
            for a in self.wanted
            if a.revision not in self.loaded and self._phase(a) is AdapterPhase.LOADING
        ]
        self.loaded |= {a.revision for a in new}
        return new

    def report(self) -> AdaptersReport:
        held = tuple(
            HeldAdapter(
                revision=a.revision,
                digest=a.digest,
                phase=self._phase(a),
                message=self._behaviour(a).refusal,
            )
            for a in self.wanted
        )
        return AdaptersReport(wanted=self.told[-1] if self.told else None, held=held)

    def _behaviour(self, adapter: WantedAdapter) -> Behaviour:
        return self.behaviour(adapter.port - 10_000)

    def _phase(self, adapter: WantedAdapter) -> AdapterPhase:
        if adapter.revision in self.loaded:
            return AdapterPhase.LOADED
        behaviour = self._behaviour(adapter)
        if behaviour.refusal:
            return AdapterPhase.REFUSED
        return AdapterPhase.LOADING if behaviour.is_ready else AdapterPhase.FAILED


def token_digest(pod: Object) -> str:
    """Give what a pod knows of the operator's token."""
    sidecar = next(c for c in pod["spec"]["containers"] if c["name"] == "sidecar")
    name = "TUNESMITH_SIDECAR_ADAPTERS_TOKEN_DIGEST"
    return str(next(e["value"] for e in sidecar["env"] if e["name"] == name))
