"""What makes two revisions the same, what they are called, and which are remembered.

Pure; called by decide_rollout and by builders of manifests. The digest covers all that pods are
made from and nothing else: a change of replicas or steps is no new revision.
"""

import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from hashlib import sha256
from typing import Any

from tunesmith_api.deploymentstatus import (
    HistoryEntry,
    ModelDeploymentStatus,
    Outcome,
    RevisionStatus,
)
from tunesmith_api.modeldeployment import ModelDeployment
from tunesmith_api.revision import RevisionTemplate
from tunesmith_api.rollout import Rollout
from tunesmith_operator.planning.serving import ServingObservation


def _digest(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return f"sha256:{sha256(text.encode()).hexdigest()}"


def revision_digest(template: RevisionTemplate) -> str:
    """Give the digest of a revision.

    Defaults are left out, so that a field added to the contract later changes no revision that
    does not use it; the name of the ModelVersion is, because the files are what serves.
    """
    return _digest(
        template.model_dump(mode="json", by_alias=True, exclude={"version"}, exclude_defaults=True)
    )


def base_digest(template: RevisionTemplate) -> str:
    """Give the digest of all but the model: what an adapter's pods are made from."""
    return _digest(
        template.model_dump(
            mode="json", by_alias=True, exclude={"version", "model"}, exclude_defaults=True
        )
    )


def plan_digest(rollout: Rollout) -> str:
    """Give the digest of what a canary is judged by."""
    plan = {"steps", "analysis", "fail_fast", "ready_timeout_seconds"}
    content = rollout.model_dump(mode="json", by_alias=True, include=plan)
    if rollout.analysis.confirm_seconds is None:
        # It came later: plans without it keep their digest, and what they rejected.
        del content["analysis"]["confirmSeconds"]
    return _digest(content)


def revision_name(deployment: ModelDeployment, digest: str) -> str:
    """Name of a revision's objects: the same revision finds the same ones."""
    return f"{deployment.metadata.name}-{digest.removeprefix('sha256:')[:10]}"


def next_revision(
    seen: ServingObservation,
    status: ModelDeploymentStatus,
    digest: str,
    template: RevisionTemplate,
) -> RevisionStatus:
    """Give the revision its number: the old one if it has been here before."""
    known = [(r.digest, r.number) for r in seen.revisions]
    known += [(h.digest, h.revision) for h in status.history]
    roles = (status.stable, status.canary, status.previous)
    known += [(r.digest, r.revision) for r in roles if r is not None]
    number = next((n for d, n in known if d == digest), status.last_revision + 1)
    return RevisionStatus(
        revision=number,
        name=revision_name(seen.deployment, digest),
        version=template.version,
        digest=digest,
    )


def remember(
    status: ModelDeploymentStatus,
    revision: RevisionStatus,
    outcome: Outcome,
    *,
    start: datetime,
    now: datetime,
    limit: int,
) -> tuple[HistoryEntry, ...]:
    """Give the history with one more roll-out; each revision is in it once, by its last one."""
    entry = HistoryEntry(
        revision=revision.revision,
        name=revision.name,
        version=revision.version,
        digest=revision.digest,
        outcome=outcome,
        start_time=start,
        completion_time=now,
    )
    return (*(h for h in status.history if h.digest != revision.digest), entry)[-limit:]


def is_fast_track(status: ModelDeploymentStatus, digest: str, limit: int) -> bool:
    """Whether the revision is one of the ``limit`` last that were promoted and never rejected.

    The one that is stable now is none of them.
    """
    stable = status.stable.digest if status.stable else ""
    good = [
        h.digest for h in status.history if h.outcome is Outcome.PROMOTED and h.digest != stable
    ]
    return limit > 0 and digest in good[-limit:]


def is_rejected(status: ModelDeploymentStatus, digest: str, plan: str) -> bool:
    """Whether the revision was rejected under this plan."""
    return any((r.digest, r.plan) == (digest, plan) for r in status.rejected)


def in_use(status: ModelDeploymentStatus) -> set[str]:
    """Names of the revisions that have a part to play."""
    roles: Iterable[RevisionStatus | None] = (status.stable, status.canary, status.previous)
    return {r.name for r in roles if r is not None}


def forgotten(seen: ServingObservation, status: ModelDeploymentStatus) -> list[str]:
    """Names of retired revisions that history no longer holds."""
    kept = in_use(status) | {h.name for h in status.history}
    return [
        r.name
        for r in seen.revisions
        if r.name not in kept and r.replicas == 0 and not seen.may_serve(r.name)
    ]
