"""What a row of a conversation has that the model would not be shown: such a row is malformed.

Learned without it, the answers would be to another question. Pure; called by ``formats``.
"""

from typing import Any

from tunesmith_trainer.data.values import Malformed, shown, structured

_CALLS = ("tool_calls", "function_call")
_OFFERS = ("tools", "functions")
_MEDIA = ("images", "image", "videos", "audios")


def check_no_calls(row: dict[str, Any], number: int) -> None:
    """Refuse an answer that calls tools: without the call, another answer would be taught."""
    calls = next((name for name in _CALLS if row.get(name)), None)
    if calls:
        raise Malformed(
            f"message {number} has {calls} ({shown(row[calls])}), and calls of tools cannot be"
            " learned; take the row out, or write the call into the content"
        )


def check_unseen(value: Any) -> None:
    """Refuse tools and media beside a conversation; serving would not have them either."""
    row = value if isinstance(value, dict) else {}
    found = next((name for name in (*_OFFERS, *_MEDIA) if structured(row.get(name))), None)
    if found:
        do = " and describe them in a system message" if found in _OFFERS else ""
        raise Malformed(
            f"{found} ({shown(row[found])}) would not be shown to the model; take the row"
            f" out, or leave {found} out{do}"
        )
