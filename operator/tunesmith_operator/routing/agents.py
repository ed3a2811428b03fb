"""Calls to the agents of router pods. An agent that does not answer is no error, just no news.

Bounded in time and size, no redirects, no proxy. Each deployment's agents take a token of their
own, derived from the installation's key, so nothing has to be stored or read back for it. Called
by reconcile/ through ``world.routers``.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

from tunesmith_api.router import AGENT_PORT, ROUTER_STATE_PATH, RouterReport, RouterState
from tunesmith_operator.fetching import Unanswered
from tunesmith_operator.planning.routing import RouterAnswer
from tunesmith_operator.planning.serving import ServingPod
from tunesmith_operator.routing.asking import Asking
from tunesmith_operator.routing.calls import Call, call_pod, open_pod_session
from tunesmith_operator.routing.patience import Patience
from tunesmith_operator.routing.tokens import router_token

ASK_SECONDS = 2.0
# The agent answers once new endpoints have passed a health check, for which it waits seconds.
TELL_SECONDS = 6.0
# Short enough that a pod that was only slow for a moment soon takes part in a rollback again.
_SILENT_SECONDS = (0.5, 2.0)
_UNWILLING_SECONDS = (1.0, 30.0)


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
        self._asking: Asking[RouterReport] = Asking(*_SILENT_SECONDS)
        self._unwilling = Patience(time.monotonic, *_UNWILLING_SECONDS)
        self._session = open_pod_session()

    def token(self, deployment_uid: str) -> str:
        """Give the token of a deployment's agents."""
        return router_token(self._key, deployment_uid)

    async def ask(self, deployment_uid: str, pods: Sequence[ServingPod]) -> list[RouterAnswer]:
        """Ask all pods side by side what they do.

        A pod that did not answer is asked again beside the passes, and waited for by none, until
        it answers.
        """
        token = self.token(deployment_uid)
        return await self._all(pods, lambda pod: self._ask(pod, token))

    async def tell(
        self, deployment_uid: str, pods: Sequence[ServingPod], state: RouterState
    ) -> list[RouterAnswer]:
        """Tell all pods side by side what to do; they answer once they do it.

        A pod that did not take just this state is told it again only after a pause, another state
        at once.
        """
        self._fence()
        token = self.token(deployment_uid)
        body = state.model_dump_json(by_alias=True).encode()
        return await self._all(pods, lambda pod: self._tell(pod, token, body))

    async def close(self) -> None:
        """Close the session."""
        self._asking.close()
        await self._session.close()

    async def _all(
        self,
        pods: Sequence[ServingPod],
        call: Callable[[ServingPod], Awaitable[RouterAnswer]],
    ) -> list[RouterAnswer]:
        return list(await asyncio.gather(*(call(pod) for pod in pods if pod.address)))

    async def _ask(self, pod: ServingPod, token: str) -> RouterAnswer:
        try:
            report = await self._asking.ask(pod, lambda: self._exchange(pod, token, None))
        except Unanswered as error:
            return RouterAnswer(pod, None, str(error))
        return RouterAnswer(pod, report)

    async def _tell(self, pod: ServingPod, token: str, body: bytes) -> RouterAnswer:
        message = (pod.uid, body)
        if not self._unwilling.is_due(message):
            return RouterAnswer(pod, None, self._unwilling.trouble(message))
        try:
            report = await self._exchange(pod, token, body)
        except Unanswered as error:
            self._unwilling.failed(message, str(error))
            return RouterAnswer(pod, None, str(error))
        self._unwilling.succeeded(message)
        return RouterAnswer(pod, report)

    async def _exchange(self, pod: ServingPod, token: str, body: bytes | None) -> RouterReport:
        """Ask, or tell if there is a body. Raises Unanswered."""
        method, seconds = ("GET", ASK_SECONDS) if body is None else ("PUT", TELL_SECONDS)
        headers = {"Authorization": f"Bearer {token}"}
        call = Call(method, self._port, ROUTER_STATE_PATH, body, headers)
        return await call_pod(self._session, pod, call, RouterReport, seconds)
