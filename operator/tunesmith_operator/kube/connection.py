"""Where the API server is and who we are: from the pod's service account or a kubeconfig.

Built on the configuration of kubernetes.aio, which also reads a rotated token again. Gives the
client its connections, and kopf a session of the same kind whose requests feed the watch clock.
Called by ``main``.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import aiohttp
from kubernetes.aio import config as kube_config
from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.client.rest import RESTClientObject

NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
USER_AGENT = "tunesmith-operator"
# Enough to keep the API server busy; each one more costs both sides a TLS handshake.
MAX_CONNECTIONS = 16

WatchAnswered = Callable[[str], None]
"""Told the path of a watch each time the API server has accepted it."""


class Connection:
    """An authenticated way to one API server."""

    def __init__(self, configuration: Any) -> None:
        configuration.connection_pool_maxsize = MAX_CONNECTIONS
        # The API server is named explicitly; the pods' proxy settings are not meant for it.
        configuration.client_session_kwargs = {"trust_env": False}
        self._configuration = configuration
        self.host = str(configuration.host)
        self.rest: Any = RESTClientObject(configuration)

    async def auth_headers(self) -> dict[str, str]:
        """Return the headers that say who we are, with a token that is fresh."""
        token = await self._configuration.get_api_key_with_prefix("BearerToken")
        headers = {"User-Agent": USER_AGENT}
        if token:
            headers["Authorization"] = cast("str", token)
        elif self._configuration.username:
            headers["Authorization"] = self._configuration.get_basic_auth_token()
        return headers

    def watch_session(self, answered: WatchAnswered) -> aiohttp.ClientSession:
        """Make kopf's session. The caller (kopf) closes it."""

        async def authenticate(
            request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
        ) -> aiohttp.ClientResponse:
            request.headers.update(await self.auth_headers())
            response = await handler(request)
            if response.ok and "watch=true" in request.url.query_string:
                answered(request.url.path)
            return response

        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=self.rest.ssl_context),
            middlewares=(authenticate,),
            # A watch event is one line, and a large object is a long one.
            read_bufsize=2**21,
        )

    async def close(self) -> None:
        """Close the client's connections."""
        await self.rest.close()


async def connect(kubeconfig: Path | None = None) -> Connection:
    """Find the API server: the given kubeconfig, else the pod's service account, else $KUBECONFIG.

    Raises ``kubernetes.aio.config.ConfigException`` if there is none.
    """
    configuration = Configuration()
    if kubeconfig is None and _is_in_cluster():
        kube_config.load_incluster_config(client_configuration=configuration)
    else:
        await kube_config.load_kube_config(
            config_file=str(kubeconfig) if kubeconfig else None,
            client_configuration=configuration,
            persist_config=False,
        )
    return Connection(configuration)


def _is_in_cluster() -> bool:
    return NAMESPACE_FILE.exists()


def own_namespace() -> str:
    """Return the namespace of the operator's pod, or default outside a cluster."""
    try:
        return NAMESPACE_FILE.read_text().strip() or "default"
    except OSError:
        return "default"
