"""What tests ask the API server for hundreds of times.

With kubectl each call is a program to start, and two cores are busy with nothing else; what it
prints is this very answer.
"""

import json
from functools import cache
from http.client import HTTPException, HTTPSConnection
from typing import Any

from deploy.native.apiserver import ControlPlane
from deploy.shell import StepError
from tunesmith_operator.kube.kinds import KINDS

_connection = cache(ControlPlane.connect)


def try_to_create(plane: ControlPlane, manifest: dict[str, Any]) -> None:
    """Ask the API server to create an object, without keeping it, and with no field that it lacks.

    Raises ``StepError`` with its words when it is refused.
    """
    where = KINDS[manifest["kind"]].path(manifest["metadata"]["namespace"])
    _post(plane, f"{where}?dryRun=All&fieldValidation=Strict", manifest)


def create_namespace(plane: ControlPlane, name: str) -> None:
    """Create a namespace."""
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    _post(plane, "/api/v1/namespaces", body)


def _post(plane: ControlPlane, path: str, body: dict[str, Any]) -> None:
    connection = _connection(plane)
    try:
        status, text = _exchange(connection, path, body)
    except (HTTPException, OSError):
        # It was closed while nobody asked.
        connection.close()
        status, text = _exchange(connection, path, body)
    if status != 201:
        raise StepError(str(json.loads(text)["message"]))


def _exchange(connection: HTTPSConnection, path: str, body: dict[str, Any]) -> tuple[int, bytes]:
    connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    return answer.status, answer.read()
