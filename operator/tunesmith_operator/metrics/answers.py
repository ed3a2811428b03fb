"""How many requests a canary has answered, by its pods: for a router that does not count, a route.

Sums since the roll-out began, so that what a revision did before, as stable or in an earlier try,
is neither held against it nor laid to its account. An operator that begins in the middle takes all
that the pods say. Called by reconcile/ in every pass, which a pod that hangs must not hold up.
"""

import asyncio
from dataclasses import dataclass, field

from tunesmith_operator.fetching import Unanswered, open_session
from tunesmith_operator.metrics.builtin import answered
from tunesmith_operator.metrics.ledger import Ledger
from tunesmith_operator.metrics.scraping import MeasuredPod, scrape
from tunesmith_operator.metrics.sources import Measured
from tunesmith_operator.planning.serving import RevisionCounts

# An answer that comes later counts in a later pass, and nobody waits for it once more.
_PASS_SECONDS = 1.0
_REVISIONS_KEPT = 1000


@dataclass(slots=True)
class _Pod:
    """What is known of one pod."""

    from_zero: bool
    """Whether all that it says at first is the roll-out's."""
    ledger: Ledger = field(default_factory=Ledger)
    failed_in_a_row: int = 0
    asking: asyncio.Task[None] | None = None
    """One question at a time, so that no old answer comes after a newer one."""

    @property
    def requests(self) -> int:
        return round(answered(self.ledger.sums))

    @property
    def consecutive_errors(self) -> int:
        # What failed before the roll-out is no part of it.
        return min(self.failed_in_a_row, self.requests)


class PodAnswers:
    """Counts of all canaries of an operator. Needs a running loop."""

    def __init__(self) -> None:
        self._session = open_session()
        self._pods: dict[tuple[str, str], dict[str, _Pod]] = {}
        """Namespace and name of a revision -> uid -> its pod."""

    async def begin(self, canary: Measured) -> None:
        """Count from now on: what its pods have answered before does not count."""
        self.forget(canary.namespace, canary.name)
        await self._ask_all(canary, from_zero=False)

    async def count(self, canary: Measured) -> RevisionCounts:
        """Give what it has answered; errors are those of the pod with most of them in a row."""
        await self._ask_all(canary, from_zero=True)
        known = self._pods[canary.namespace, canary.name]
        return RevisionCounts(
            canary.name,
            requests=sum(pod.requests for pod in known.values()),
            consecutive_errors=max(
                (known[pod.uid].consecutive_errors for pod in canary.pods), default=0
            ),
        )

    def forget(self, namespace: str, name: str) -> None:
        """Forget a revision."""
        for pod in self._pods.pop((namespace, name), {}).values():
            if pod.asking is not None:
                pod.asking.cancel()

    async def close(self) -> None:
        """Close all connections."""
        for namespace, name in list(self._pods):
            self.forget(namespace, name)
        await self._session.close()

    async def _ask_all(self, revision: Measured, *, from_zero: bool) -> None:
        known = self._pods.setdefault((revision.namespace, revision.name), {})
        while len(self._pods) > _REVISIONS_KEPT:
            self.forget(*next(iter(self._pods)))
        asked = []
        for pod in revision.pods:
            counted = known.setdefault(pod.uid, _Pod(from_zero))
            if counted.asking is None or counted.asking.done():
                question = self._ask(counted, pod, revision.name)
                counted.asking = asyncio.create_task(question, name=f"count {revision.name}")
                asked.append(counted.asking)
        if asked:
            await asyncio.wait(asked, timeout=_PASS_SECONDS)

    async def _ask(self, counted: _Pod, pod: MeasuredPod, revision: str) -> None:
        try:
            found = await scrape(self._session, pod, revision)
        except Unanswered:
            return  # no error, just no news
        counted.ledger.add(pod.uid, found, from_zero=counted.from_zero)
        counted.failed_in_a_row = found.failed_in_a_row
