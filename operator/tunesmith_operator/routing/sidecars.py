"""Calls to the sidecars of pods that serve adapters: what they hold, and what they should.

Each deployment's pods take a token of their own, derived from the installation's key; in the pods
there is only its digest. Called by reconcile/ through ``world.adapters``.
"""

import asyncio
from collections.abc import Callable, Sequence

from tunesmith_api.adapters import ADAPTERS_PATH, AdaptersReport, WantedAdapters
from tunesmith_operator.fetching import Unanswered
from tunesmith_operator.planning.serving import ServingPod
from tunesmith_operator.routing.calls import Call, call_pod, open_pod_session
from tunesmith_operator.routing.tokens import adapters_token

_SECONDS = 2.0


class AdapterSidecars:
    """One session for all sidecars. Needs a running loop."""

    def __init__(self, key: str, port: int, fence: Callable[[], None] = lambda: None) -> None:
        """``key`` is the installation's; ``port`` is the pods' own.

        ``fence`` raises LostLeadershipError: an operator that no longer leads tells nobody.
        """
        self._key = key
        self._port = port
        self._fence = fence
        self._session = open_pod_session()

    def token(self, deployment_uid: str) -> str:
        """Give the token of a deployment's pods."""
        return adapters_token(self._key, deployment_uid)

    async def ask(
        self, deployment_uid: str, pods: Sequence[ServingPod]
    ) -> dict[str, AdaptersReport]:
        """Ask all pods side by side what they hold; give it by their uid."""
        return await self._all("GET", deployment_uid, pods, None)

    async def tell(
        self, deployment_uid: str, pods: Sequence[ServingPod], wanted: WantedAdapters
    ) -> dict[str, AdaptersReport]:
        """Tell all pods side by side what to hold; they answer at once and begin."""
        self._fence()
        return await self._all("PUT", deployment_uid, pods, wanted)

    async def close(self) -> None:
        """Close the session."""
        await self._session.close()

    async def _all(
        self,
        method: str,
        deployment_uid: str,
        pods: Sequence[ServingPod],
        wanted: WantedAdapters | None,
    ) -> dict[str, AdaptersReport]:
        headers = {"Authorization": f"Bearer {self.token(deployment_uid)}"}
        body = wanted.model_dump_json(by_alias=True).encode() if wanted is not None else None
        call = Call(method, self._port, ADAPTERS_PATH, body, headers)
        asked = [pod for pod in pods if pod.address]
        said = await asyncio.gather(*(self._one(pod, call) for pod in asked))
        return {p.uid: report for p, report in zip(asked, said, strict=True) if report is not None}

    async def _one(self, pod: ServingPod, call: Call) -> AdaptersReport | None:
        try:
            return await call_pod(self._session, pod, call, AdaptersReport, _SECONDS)
        except Unanswered:
            return None  # no error, just no news
