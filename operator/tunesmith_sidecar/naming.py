"""Under which name the engine is asked, where it holds several models and clients know one.

The only place that touches a client's body, and of it only the member ``model``: that is where
vLLM reads which adapter is meant, and Ollama which model. Pure. Called by ``proxy``.
"""

from typing import Any

import orjson


class UnknownModel(Exception):
    """A request names a model that is not served here."""


def rename_model(body: bytes, served: str, engine: str) -> bytes:
    """Give the body with the engine's name of the model that clients call ``served``.

    What is no JSON object passes as it is: the engine says what is wrong with it. Raises
    UnknownModel for another name, or a client could choose an adapter past the router's weights.
    """
    try:
        asked: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        return body
    if not isinstance(asked, dict):
        return body
    if asked.get("model", served) != served:
        raise UnknownModel
    return orjson.dumps({**asked, "model": engine})


def rename_listing(content: bytes, served: str, engine: str) -> bytes:
    """Give an engine's list of models with the served one alone, under its clients' name."""
    # Ollama lists a model with its tag, and is asked for it without.
    names = (engine, f"{engine}:latest")
    listed: Any = orjson.loads(content)
    own = [{**card, "id": served} for card in listed["data"] if card.get("id") in names]
    return orjson.dumps({"object": "list", "data": own})
