"""What a roll-out under load cost its clients, from their answers and the operator's word.

Pure but for ``show``, which prints. Called by ``rollout``.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from rich.markup import escape
from rich.table import Table

from deploy.display import console
from deploy.load import Answer, failures
from deploy.rollout_status import DeploymentStatus, Revision

LISTED = 5


@dataclass(frozen=True)
class Figures:
    """What became of the requests."""

    sent: int
    failed: int
    failed_by_stable: int
    """All failures but the canary's own answers: also what nobody answered."""
    answered_by_canary: int
    causes: tuple[str, ...]
    """Why stable's failed, the most frequent first: `2 x 429: busy`."""
    p50: float
    p95: float
    """Seconds of good answers; not a number without any."""


def count(answers: Sequence[Answer], canary: str) -> Figures:
    """Count what became of requests; ``canary`` is the name of the revision on trial."""
    bad = failures(answers)
    of_stable = [answer for answer in bad if not canary or answer.revision != canary]
    causes = Counter(f"{answer.code or 'no answer'}: {answer.trouble}" for answer in of_stable)
    seconds = [answer.seconds for answer in answers if answer.is_good]
    return Figures(
        sent=len(answers),
        failed=len(bad),
        failed_by_stable=len(of_stable),
        answered_by_canary=sum(1 for answer in answers if canary and answer.revision == canary),
        causes=tuple(f"{number} x {cause}" for cause, number in causes.most_common(LISTED)),
        p50=percentile(seconds, 50),
        p95=percentile(seconds, 95),
    )


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the nearest-rank percentile, or not a number where there are no values."""
    if not values:
        return math.nan
    return sorted(values)[max(math.ceil(len(values) * percent / 100) - 1, 0)]


def objections(status: DeploymentStatus, offered: Revision, figures: Figures) -> list[str]:
    """Return why a bad revision was not handled as promised; empty when it was."""
    found = []
    rollback = status.last_rollback
    if rollback is None or rollback.from_revision != offered.revision:
        found.append(f"revision {offered.revision} was not rolled back: {status.phase}")
    elif rollback.restored_after_milliseconds is None:
        found.append("the rejected revision still has traffic")
    if figures.failed_by_stable:
        found.append(f"{figures.failed_by_stable} requests failed that the canary did not answer")
        found += figures.causes
    return found


def show(status: DeploymentStatus, figures: Figures) -> None:
    """Print the verdict and the figures."""
    table = Table("figure", "value", title="\nThe roll-out", title_justify="left")
    rollback = status.last_rollback
    if rollback is not None:
        metric = f", {rollback.metric}" if rollback.metric else ""
        table.add_row("verdict", f"rolled back: {rollback.reason}{metric}")
        table.add_row("why", escape(rollback.message))
        table.add_row("from first request to verdict", f"{rollback.detected_after_seconds} s")
        restored = rollback.restored_after_milliseconds
        table.add_row("from verdict to no traffic", "-" if restored is None else f"{restored} ms")
        served = (
            f"{rollback.requests_served_by_rejected} (clients saw {figures.answered_by_canary})"
        )
        table.add_row("requests served by the rejected", served)
    else:
        table.add_row("verdict", f"none: {status.phase}")
    table.add_row("requests sent, failed", f"{figures.sent}, {figures.failed}")
    table.add_row("of these failed on stable", str(figures.failed_by_stable))
    table.add_row("latency p50, p95", f"{_seconds(figures.p50)}, {_seconds(figures.p95)}")
    console.print(table)


def _seconds(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f} s"
