"""Calls to the sidecars of pods that serve adapters: what they hold, and what they should.

A pod that does not answer is no error, just no news, and holds up a pass but once. Each
deployment's pods take a token of their own, derived from the installation's key; in the pods there
is only its digest. Called by reconcile/ through ``world.adapters``.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from tunesmith_api.adapters import ADAPTERS_PATH, AdaptersReport, WantedAdapters
from tunesmith_operator.fetching import Unanswered
from tunesmith_operator.planning.serving import ServingPod
from tunesmith_operator.routing.asking import Asking
from tunesmith_operator.routing.calls import Call, call_pod, open_pod_session
from tunesmith_operator.routing.tokens import adapters_token

_SECONDS = 2.0
# Short enough that a pod that was only slow for a moment is soon asked like the others.
_SILENT_SECONDS = (0.5, 2.0)
_QUICK_SECONDS = 0.5


class AdapterSidecars:
    """One session for all sidecars. Needs a running loop."""

    def __init__(self, key: str, port: int, fence: Callable[[], None] = lambda: None) -> None:
        """``key`` is the installation's; ``port`` is the pods' own.

        ``fence`` raises LostLeadershipError: an operator that no longer leads tells nobody.
        """
        self._key = key
        self._port = port
        self._fence = fence
        self._asking: Asking[AdaptersReport] = Asking(
            *_SILENT_SECONDS, quick_seconds=_QUICK_SECONDS
        )
        self._session = open_pod_session()

    def token(self, deployment_uid: str) -> str:
        """Give the token of a deployment's pods."""
        return adapters_token(self._key, deployment_uid)

    async def ask(
        self, deployment_uid: str, pods: Sequence[ServingPod]
    ) -> dict[str, AdaptersReport]:
        """Ask all pods side by side what they hold; give it by their uid.

        A pod that was silent is asked again beside the passes, until it answers.
        """
        call = self._call("GET", deployment_uid, None)
        return await _all(
            pods, lambda pod: self._asking.ask(pod, lambda: self._exchange(pod, call))
        )

    async def tell(
        self, deployment_uid: str, pods: Sequence[ServingPod], wanted: WantedAdapters
    ) -> dict[str, AdaptersReport]:
        """Tell all pods side by side what to hold; they answer at once and begin.

        One that is silent is told once it answers what it is asked.
        """
        self._fence()
        call = self._call("PUT", deployment_uid, wanted.model_dump_json(by_alias=True).encode())
        heard = [pod for pod in pods if not self._asking.is_silent(pod)]
        return await _all(heard, lambda pod: self._exchange(pod, call))

    async def close(self) -> None:
        """Close the session."""
        self._asking.close()
        await self._session.close()

    def _call(self, method: str, deployment_uid: str, body: bytes | None) -> Call:
        headers = {"Authorization": f"Bearer {self.token(deployment_uid)}"}
        return Call(method, self._port, ADAPTERS_PATH, body, headers)

    async def _exchange(self, pod: ServingPod, call: Call) -> AdaptersReport:
        return await call_pod(self._session, pod, call, AdaptersReport, _SECONDS)


async def _all(
    pods: Sequence[ServingPod], exchange: Callable[[ServingPod], Awaitable[AdaptersReport]]
) -> dict[str, AdaptersReport]:
    """Give the answers of those that answer, by their uid."""

    async def one(pod: ServingPod) -> AdaptersReport | None:
        try:
            return await exchange(pod)
        except Unanswered:
            return None

    asked = [pod for pod in pods if pod.address]
    said = await asyncio.gather(*(one(pod) for pod in asked))
    return {p.uid: report for p, report in zip(asked, said, strict=True) if report is not None}
