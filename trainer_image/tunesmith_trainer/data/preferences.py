"""Preferences: one question, a better and a worse answer.

Canonical form: ``{"messages": […], "chosen": "…", "rejected": "…"}``, where messages are the turns
up to the answers, the last one a user's. Called by ``rows``; ``both_sides`` is for whoever trains
on them.
"""

from typing import Any

import orjson

from tunesmith_api.dataset import Columns
from tunesmith_trainer.data.formats import (
    Malformed,
    Message,
    as_object,
    checked,
    structured,
    text_of,
)

_START = b'{"messages":'
"""What the canonical JSON of a preference begins with, and of nothing else."""


def from_preference(value: Any, columns: Columns) -> dict[str, Any]:
    """Read prompt, chosen and rejected: texts, or lists of messages as TRL has them.

    Without a prompt, chosen and rejected are whole conversations that differ in the last message.
    """
    row = as_object(value)
    chosen, rejected = (
        structured(_field(row, name)) for name in (columns.chosen, columns.rejected)
    )
    prompt = structured(row.get(columns.prompt))
    if isinstance(prompt, list):
        turns = _turns(prompt, columns.prompt)
    elif prompt is not None:
        turns = [{"role": "user", "content": checked(prompt, columns.prompt)}]
    else:
        turns = []
    before_chosen, better = _answer(chosen, columns.chosen)
    before_rejected, worse = _answer(rejected, columns.rejected)
    if before_chosen != before_rejected:
        raise Malformed(f"{columns.chosen} and {columns.rejected} answer different questions")
    # Some data sets repeat the prompt in front of both answers.
    if before_chosen and before_chosen != turns:
        turns = [*turns, *before_chosen]
    if not turns or turns[-1]["role"] != "user":
        raise Malformed(f"no question in front of {columns.chosen} and {columns.rejected}")
    if better == worse:
        raise Malformed(f"{columns.chosen} and {columns.rejected} are equal")
    return {"messages": turns, "chosen": better, "rejected": worse}


def question_of(content: bytes) -> bytes | None:
    """Give the turns up to the answers, as canonical JSON; None for what is no preference."""
    if not content.startswith(_START):
        return None
    return orjson.dumps(orjson.loads(content)["messages"])


def both_sides(content: dict[str, Any]) -> tuple[list[Message], list[Message]]:
    """Give the conversations with the better and with the worse answer.

    Only the last answer of each is to be learned: ``RowTokenizer.encode`` marks nothing else.
    """
    turns = [
        {**turn, "weight": 0} if turn["role"] == "assistant" else turn
        for turn in content["messages"]
    ]
    chosen, rejected = (
        [*turns, {"role": "assistant", "content": content[name]}] for name in ("chosen", "rejected")
    )
    return chosen, rejected


def _field(row: dict[str, Any], name: str) -> Any:
    if name not in row:
        return text_of(row, name)
    return row[name]


def _answer(value: Any, name: str) -> tuple[list[Message], str]:
    if not isinstance(value, list):
        return [], checked(value, name)
    turns = _turns(value, name)
    if turns[-1]["role"] != "assistant":
        raise Malformed(f"{name} does not end with a message of the assistant")
    return turns[:-1], turns[-1]["content"]


def _turns(value: list[Any], name: str) -> list[Message]:
    turns = []
    for number, item in enumerate(value, 1):
        row = as_object(item)
        if row.get("role") not in ("system", "user", "assistant"):
            raise Malformed(f"message {number} of {name} has no known role")
        content = checked(row.get("content"), f"content of message {number} of {name}")
        turns.append({"role": row["role"], "content": content})
    if not turns:
        raise Malformed(f"{name} is an empty list")
    return turns
