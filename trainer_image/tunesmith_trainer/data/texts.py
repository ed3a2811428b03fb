"""The texts of a row: the one place that knows where in a row's canonical JSON they are.

A row is a list of ``{"role", "content"}``, or ``{"text"}``, or ``{"messages", "chosen",
"rejected"}`` whose last two are a text or messages. Pure; called by ``cleaning`` and ``shingles``.
"""

from collections.abc import Callable, Iterator
from typing import Any

import orjson

_TEXTS = frozenset({"content", "text", "chosen", "rejected"})


def row_texts(content: bytes) -> list[str]:
    """Give all texts of a row, in order."""
    return [text for _, text in _walk(orjson.loads(content))]


def said_texts(content: bytes) -> list[str]:
    """Give the texts of a row but for system messages, which rows of one source share."""
    return [text for role, text in _walk(orjson.loads(content)) if role != "system"]


def change_texts(content: bytes, change: Callable[[str], str]) -> bytes:
    """Give the row with ``change`` done to each of its texts; the same bytes if nothing changed."""
    row = orjson.loads(content)
    return orjson.dumps(row) if _change(row, change) else content


def _walk(node: Any, role: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(node, list):
        for item in node:
            yield from _walk(item, role)
    elif isinstance(node, dict):
        role = node.get("role", role)
        for key, value in node.items():
            if isinstance(value, str):
                if key in _TEXTS:
                    yield role, value
            else:
                yield from _walk(value, role)


def _change(node: Any, change: Callable[[str], str]) -> bool:
    changed = False
    if isinstance(node, list):
        for item in node:
            changed |= _change(item, change)
    elif isinstance(node, dict):
        for key, value in node.items():
            if not isinstance(value, str):
                changed |= _change(value, change)
            elif key in _TEXTS and (new := change(value)) != value:
                node[key] = new
                changed = True
    return changed
