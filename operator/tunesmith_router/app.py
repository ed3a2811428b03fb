"""The agent's paths: the operator's state, probes, metrics. Decides nothing itself.

Called by ``serving``.
"""

from aiohttp import web
from pydantic import BaseModel, ValidationError

from tunesmith_api.router import ROUTER_STATE_PATH, RouterState
from tunesmith_process.logs import log
from tunesmith_router.access import Access
from tunesmith_router.admin import HAProxyError
from tunesmith_router.metrics import CONTENT_TYPE, render_metrics
from tunesmith_router.placement import find_faults
from tunesmith_router.router import Router

# A state with all revisions and endpoints that the contract allows.
_LARGEST_STATE = 4 << 20


class Agent:
    """The handlers."""

    def __init__(self, router: Router, access: Access) -> None:
        self._router = router
        self._access = access
        self.is_draining = False
        """Whether the pod is ending: not ready, but still at the operator's service."""

    def build(self) -> web.Application:
        """Make the web application."""
        app = web.Application(client_max_size=_LARGEST_STATE)
        app.add_routes(
            [
                web.get(ROUTER_STATE_PATH, self._get),
                web.put(ROUTER_STATE_PATH, self._put),
                web.get("/livez", self._livez),
                web.get("/readyz", self._readyz),
                web.get("/metrics", self._metrics),
            ]
        )
        return app

    async def _get(self, request: web.Request) -> web.Response:
        if not self._access.allow(request.headers.get("Authorization")):
            return _refuse(401, "the token is missing or wrong")
        return _answer(await self._router.report())

    async def _put(self, request: web.Request) -> web.Response:
        if not self._access.allow(request.headers.get("Authorization")):
            return _refuse(401, "the token is missing or wrong")
        try:
            state = RouterState.model_validate_json(await request.read())
        except ValidationError as error:
            problems = error.errors(include_url=False, include_input=False)
            lines = [f"{'.'.join(map(str, p['loc'])) or 'body'}: {p['msg']}" for p in problems]
            return _refuse(400, "; ".join(lines))
        if faults := find_faults(state):
            return _refuse(400, "; ".join(faults))
        try:
            return _answer(await self._router.put(state))
        except HAProxyError as error:
            log.warning("the state is not in effect", error=str(error))
            return _refuse(503, str(error))

    async def _livez(self, _: web.Request) -> web.Response:
        # Only that the event loop turns: restarting the agent would not mend HAProxy.
        return web.Response(text="ok")

    async def _readyz(self, _: web.Request) -> web.Response:
        trouble = "draining" if self.is_draining else await self._router.find_trouble()
        return web.Response(text=trouble or "ok", status=503 if trouble else 200)

    async def _metrics(self, _: web.Request) -> web.Response:
        body = await render_metrics(self._router)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE})


def _answer(message: BaseModel) -> web.Response:
    body = message.model_dump_json(by_alias=True)
    return web.Response(text=body, content_type="application/json")


def _refuse(status: int, message: str) -> web.Response:
    return web.json_response({"error": {"message": message}}, status=status)
