"""vLLM's paths for adapters at run time: which are loaded, load one, unload one.

As in vLLM's documentation of LoRA adapters; they are there with VLLM_ALLOW_RUNTIME_LORA_UPDATING
alone. Asked again and again, because an engine that was restarted has lost them all. Called by
``adapter``.
"""

import asyncio
from collections.abc import Mapping
from pathlib import Path

import orjson

from tunesmith_sidecar.engine import Engine, EngineUnavailable

_LIST_SECONDS = 5.0
_LOAD_SECONDS = 120.0
_JSON: Mapping[str, str] = {"Content-Type": "application/json"}
_LONGEST = 500


class NotLoaded(Exception):
    """The engine refused an adapter; the text is the engine's."""


class Loras:
    """The adapters of an engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def names(self) -> frozenset[str]:
        """Give the models that the engine has. Raises EngineUnavailable, TimeoutError."""
        async with (
            asyncio.timeout(_LIST_SECONDS),
            self._engine.request("GET", "/v1/models", None, {}) as answer,
        ):
            if answer.status != 200:
                raise EngineUnavailable(f"HTTP {answer.status}")
            body = await answer.read()
        try:
            return frozenset(card["id"] for card in orjson.loads(body)["data"])
        except (orjson.JSONDecodeError, KeyError, TypeError) as error:
            raise EngineUnavailable(f"no list of models: {type(error).__name__}") from error

    async def load(self, name: str, path: Path) -> None:
        """Load an adapter. Raises NotLoaded, EngineUnavailable, TimeoutError."""
        status, text = await self._post("load", {"lora_name": name, "lora_path": str(path)})
        if status != 200:
            raise NotLoaded(text)

    async def unload(self, name: str) -> None:
        """Unload an adapter, if it is there. Raises EngineUnavailable, TimeoutError."""
        await self._post("unload", {"lora_name": name})

    async def _post(self, verb: str, body: dict[str, str]) -> tuple[int, str]:
        async with (
            asyncio.timeout(_LOAD_SECONDS),
            self._engine.request(
                "POST", f"/v1/{verb}_lora_adapter", orjson.dumps(body), _JSON
            ) as answer,
        ):
            text = (await answer.read())[:_LONGEST].decode("utf-8", "replace")
            return answer.status, f"HTTP {answer.status}: {' '.join(text.split())}"
