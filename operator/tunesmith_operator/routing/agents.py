"""Calls to the agents of router pods. An agent that does not answer is no error, just no news.

Bounded in time and size, no redirects, no proxy. Each deployment's agents take a token of their
own, derived from the installation's key, so nothing has to be stored or read back for it. Called
by reconcile/ through ``world.routers``.
"""

import asyncio
from collections.abc import Callable, Sequence

from tunesmith_api.router import AGENT_PORT, ROUTER_STATE_PATH, RouterReport, RouterState
from tunesmith_operator.planning.routing import RouterAnswer
from tunesmith_operator.planning.serving import ServingPod
from tunesmith_operator.routing.calls import Call, call_pod, open_pod_session
from tunesmith_operator.routing.tokens import router_token

ASK_SECONDS = 2.0
# The agent answers once new endpoints have passed a health check, for which it waits seconds.
TELL_SECONDS = 10.0


class RouterAgents:
    """One session for all agents. Needs a running loop."""

    def __init__(
        self, key: str, fence: Callable[[], None] = lambda: None, port: int = AGENT_PORT
    ) -> None:
        """``key`` is the installation's; every deployment's token follows from it.

        ``fence`` raises LostLeadershipError: an operator that no longer leads tells nobody.
        """
        self._key = key
        self._fence = fence
        self._port = port
        self._session = open_pod_session()

    def token(self, deployment_uid: str) -> str:
        """Give the token of a deployment's agents."""
        return router_token(self._key, deployment_uid)

    async def ask(self, deployment_uid: str, pods: Sequence[ServingPod]) -> list[RouterAnswer]:
        """Ask all pods side by side what they do."""
        return await self._all("GET", deployment_uid, pods, None)

    async def tell(
        self, deployment_uid: str, pods: Sequence[ServingPod], state: RouterState
    ) -> list[RouterAnswer]:
        """Tell all pods side by side what to do; they answer once they do it."""
        self._fence()
        return await self._all("PUT", deployment_uid, pods, state)

    async def close(self) -> None:
        """Close the session."""
        await self._session.close()

    async def _all(
        self,
        method: str,
        deployment_uid: str,
        pods: Sequence[ServingPod],
        state: RouterState | None,
    ) -> list[RouterAnswer]:
        headers = {"Authorization": f"Bearer {self.token(deployment_uid)}"}
        body = state.model_dump_json(by_alias=True).encode() if state else None
        reachable = [pod for pod in pods if pod.address]
        reports = await asyncio.gather(
            *(self._one(method, pod, headers, body) for pod in reachable)
        )
        return [RouterAnswer(pod, report) for pod, report in zip(reachable, reports, strict=True)]

    async def _one(
        self, method: str, pod: ServingPod, headers: dict[str, str], body: bytes | None
    ) -> RouterReport | None:
        call = Call(method, self._port, ROUTER_STATE_PATH, body, headers)
        seconds = ASK_SECONDS if body is None else TELL_SECONDS
        return await call_pod(self._session, pod, call, RouterReport, seconds)
