"""Preferences: one question, a better and a worse answer.

Canonical form: ``{"messages": […], "chosen": "…", "rejected": "…"}``, where messages are the turns
up to the answers, the last one a user's. Called by ``rows``; ``both_sides`` is for whoever trains
on them.
"""

from typing import Any

import orjson

from tunesmith_api.dataset import Columns
from tunesmith_trainer.data.formats import (
    ROLES,
    Message,
    alternating,
    begun,
    below_system,
    is_no_system,
    unknown_role,
)
from tunesmith_trainer.data.values import Malformed, as_object, checked, field_of, structured

_START = b'{"messages":'
"""What the canonical JSON of a preference begins with, and of nothing else."""


def from_preference(value: Any, columns: Columns) -> dict[str, Any]:
    """Read prompt, chosen and rejected: texts, or lists of messages as TRL has them.

    Without a prompt, chosen and rejected are whole conversations that differ in the last message.
    """
    row = as_object(value)
    chosen, rejected = (
        structured(field_of(row, name)) for name in (columns.chosen, columns.rejected)
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
        raise Malformed(
            f"{columns.chosen} and {columns.rejected} answer different questions; give both the"
            " same messages before the last one"
        )
    turns = _joined(turns, before_chosen)
    if not turns or turns[-1]["role"] != "user":
        raise Malformed(
            f"no question in front of {columns.chosen} and {columns.rejected}; put one into"
            f" {columns.prompt}"
        )
    turns = below_system(row, turns)
    begun(alternating(turns, " of the question"))
    if better == worse:
        raise Malformed(f"{columns.chosen} and {columns.rejected} are equal; leave the row out")
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


def _joined(prompt: list[Message], before: list[Message]) -> list[Message]:
    """Give the prompt and what stands before both answers.

    Some data sets repeat the prompt there: below a system message, or with more turns behind it.
    """
    size = len(prompt)
    is_repeated = prompt in (before[:size], before[len(before) - size :])
    return before if before and is_repeated else [*prompt, *before]


def _answer(value: Any, name: str) -> tuple[list[Message], str]:
    if not isinstance(value, list):
        return [], checked(value, name)
    turns = _turns(value, name)
    if turns[-1]["role"] != "assistant":
        raise Malformed(
            f"{name} ends with a message of the {turns[-1]['role']}; end it with one of the"
            " assistant"
        )
    return turns[:-1], turns[-1]["content"]


def _turns(value: list[Any], name: str) -> list[Message]:
    turns = []
    for number, item in enumerate(value, 1):
        row = as_object(item, f"message {number} of {name}")
        if row.get("role") not in ROLES:
            unknown_role(f"{number} of {name}", row.get("role"))
        if is_no_system(row["role"], row.get("content")):
            continue
        content = checked(row.get("content"), f"content of message {number} of {name}")
        turns.append({"role": row["role"], "content": content})
    if not turns:
        raise Malformed(f"{name} has no message that says something")
    return alternating(turns, f" of {name}")
