"""Puts the parts together: which path goes where. Everything that is not named here is 404.

Decides nothing itself. Called by ``serving``.
"""

from collections.abc import Callable

from aiohttp import web

from tunesmith_sidecar.answers import error_answer
from tunesmith_sidecar.conversations.log import ConversationLog
from tunesmith_sidecar.engine import Engine
from tunesmith_sidecar.guard import Guard
from tunesmith_sidecar.metrics import Metrics, Route
from tunesmith_sidecar.predict import CHAT_PATH, Predictions
from tunesmith_sidecar.probes import Probes
from tunesmith_sidecar.proxy import Proxy
from tunesmith_sidecar.settings import Settings

COMPLETIONS_PATH = "/v1/completions"
MODELS_PATH = "/v1/models"


def build_app(
    settings: Settings,
    engine: Engine,
    guard: Guard,
    metrics: Metrics,
    conversations: ConversationLog | None,
    *,
    missing: Callable[[], str] = lambda: "",
) -> web.Application:
    """Make the web application; ``missing`` says what keeps it from being ready."""
    proxy = Proxy(settings, engine, conversations)
    predictions = Predictions(settings, engine, conversations)
    probes = Probes(settings, engine, guard.gate, metrics, missing)

    async def unknown(_: web.Request) -> web.Response:
        # Engines have paths that change slots, models and adapters; no client reaches them.
        metrics.answered(Route.OTHER, 404, 0.0)
        return error_answer(404, "There is no such path.", "unknown_path")

    app = web.Application(client_max_size=settings.max_body_bytes)
    app.add_routes(
        [
            web.post(CHAT_PATH, guard.wrap(Route.CHAT, proxy.inference(CHAT_PATH))),
            web.post(
                COMPLETIONS_PATH,
                guard.wrap(Route.COMPLETIONS, proxy.inference(COMPLETIONS_PATH)),
            ),
            web.get(MODELS_PATH, guard.wrap(Route.MODELS, proxy.listing(MODELS_PATH))),
            web.post("/api/v1/predict", guard.wrap(Route.PREDICT, predictions.predict)),
            web.post("/api/v1/feedback", guard.wrap(Route.FEEDBACK, predictions.feedback)),
            *probes.routes(),
            web.route("*", "/{path:.*}", unknown),
        ]
    )
    return app
