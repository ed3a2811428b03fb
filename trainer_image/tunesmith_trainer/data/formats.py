"""The shapes a row may have, and what makes one malformed.

Each function takes the parsed value of one row and gives its canonical form: for a conversation a
list of ``{"role", "content"}``, with ``"weight": 0`` at answers that are not to be learned; for
plain text ``{"text"}``. Preferences are in ``preferences``. Pure; called by ``rows``.
"""

from collections.abc import Iterable
from itertools import count, pairwise
from typing import Any, NoReturn

import orjson

from tunesmith_api.dataset import Columns
from tunesmith_trainer.data.unseen import check_no_calls, check_unseen
from tunesmith_trainer.data.values import (
    Malformed,
    as_object,
    checked,
    field_of,
    fields_of,
    list_of,
    shown,
    structured,
    text_of,
)
from tunesmith_trainer.outcome import shorten

Message = dict[str, Any]
Canonical = list[Message] | dict[str, Any]
ROLES = ("system", "user", "assistant")
_SHARE_GPT_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "bot": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "assistant": "assistant",
    "system": "system",
}
# The latter two in OpenAI's Responses; a part may be a plain text, too.
_TEXT_PARTS = ("text", "input_text", "output_text")
_ENTITY_NAMES = ("entity", "name", "type", "label")


def from_prompt(value: Any, columns: Columns) -> list[Message]:
    """Read a question and its answer."""
    row = as_object(value)
    return below_system(row, pair(text_of(row, columns.prompt), text_of(row, columns.response)))


def from_turns(value: Any) -> list[Message]:
    """Read {"user", "bot"}, or a list of them."""
    turns = value if isinstance(value, list) else [value]
    if not turns:
        raise Malformed("an empty conversation")
    messages: list[Message] = []
    for number, turn in enumerate(turns, 1):
        row = as_object(turn, f"turn {number}" if turns is value else "the row")
        of = f" of turn {number}" if turns is value else ""
        messages += pair(text_of(row, "user", of), text_of(row, "bot", of))
    return messages


def from_messages(value: Any, columns: Columns) -> list[Message]:
    """Read OpenAI's messages, in a field or as a bare list."""
    check_unseen(value)
    return _in_order(_messages(*_items(value, columns.messages)))


def from_log(value: Any, columns: Columns) -> list[Message]:
    """Read a logged conversation: in whatever order, it is what was asked and answered."""
    return closed(_messages(*_items(value, columns.messages)))


def check_messages(value: Any) -> list[Message]:
    """Read a list of messages; questions behind the last answer are left out."""
    return _in_order(_messages(value, "messages"))


def _in_order(messages: list[Message]) -> list[Message]:
    return closed(begun(alternating(messages)))


def _messages(value: Any, name: str) -> list[Message]:
    return said(map(_message, list_of(value, name), count(1)), name)


def _items(value: Any, name: str) -> tuple[Any, str]:
    """Give the messages of a row, which may be the row itself, and what to call them."""
    if not isinstance(value, dict):
        return value, "the row"
    return field_of(value, name), name


def begun(messages: list[Message]) -> list[Message]:
    """Refuse what begins with an answer. Raises Malformed."""
    # In logs of chats agents greet first; in messages it is a row whose roles were swapped.
    if messages[0]["role"] == "assistant":
        raise Malformed(
            "the first message is the assistant's, an answer to nothing; begin with one of the"
            " user or the system"
        )
    return messages


def alternating(messages: list[Message], of: str = "") -> list[Message]:
    """Refuse two messages of one role in a row: swapped roles, or one that got lost.

    ``of`` says for messages which list it is. Raises Malformed.
    """
    _check_systems(messages, of)
    for number, (before, message) in enumerate(pairwise(messages), 2):
        if before["role"] == message["role"]:
            raise Malformed(
                f"messages {number - 1} and {number}{of} are both the {message['role']}'s; correct"
                " the role of one, join them, or put between them what is missing"
            )
    return messages


def closed(messages: list[Message]) -> list[Message]:
    """Check the places of system messages and drop what nothing is learned from at the end."""
    _check_systems(messages)
    while messages and messages[-1]["role"] != "assistant" and len(messages) > 1:
        messages.pop()
    return messages


def _check_systems(messages: list[Message], of: str = "") -> None:
    for number, message in enumerate(messages, 1):
        if message["role"] == "system" and number > 1:
            raise Malformed(
                f"message {number}{of} is a system message that is not the first; move it to the"
                " beginning, or leave it out"
            )


def from_alpaca(value: Any, columns: Columns) -> list[Message]:
    """Read Stanford Alpaca's instruction, input and output; an input follows after a blank line."""
    row = as_object(value)
    question = text_of(row, columns.instruction)
    further = row.get(columns.input)
    if further is not None and not isinstance(further, str):
        raise Malformed(f"{columns.input} is {shown(further)}, not text")
    if further and further.strip():
        question = f"{question}\n\n{further}"
    return below_system(row, pair(question, text_of(row, columns.output)))


def below_system(row: dict[str, Any], messages: list[Message]) -> list[Message]:
    """Put the row's field "system" before its messages, where they have no such message."""
    system = row.get("system")
    if not isinstance(system, str) or not system.strip() or messages[0]["role"] == "system":
        return messages
    return [{"role": "system", "content": system}, *messages]


def from_share_gpt(value: Any, columns: Columns) -> list[Message]:
    """Read turns of {"from", "value"}; a field "system" beside them is the system message."""
    row = as_object(value) if not isinstance(value, list) else {columns.conversations: value}
    turns = list_of(field_of(row, columns.conversations), columns.conversations)
    check_unseen(row)
    messages = alternating(said(map(_turn, turns, count(1)), columns.conversations))
    return closed(begun(below_system(row, messages)))


def said(messages: Iterable[Message | None], name: str) -> list[Message]:
    """Give what is there of the messages. Raises Malformed where that is none."""
    found = [message for message in messages if message]
    if not found:
        raise Malformed(f"{name} has only an empty system message; give a question and its answer")
    return found


def is_no_system(role: Any, content: Any) -> bool:
    """Tell a system message that says nothing, as many data sets have in rows without one."""
    is_empty = content is None or (isinstance(content, str) and not content.strip())
    return role == "system" and is_empty


def _turn(value: Any, number: int) -> Message | None:
    row = as_object(value, f"turn {number}")
    who = row.get("from", row.get("role"))
    role = _SHARE_GPT_ROLES.get(who.lower()) if isinstance(who, str) else None
    if role is None:
        unknown_role(number, who, "human, gpt and system")
    content = row.get("value", row.get("content"))
    if is_no_system(role, content):
        return None
    return {"role": role, "content": checked(content, f"value of turn {number}")}


def from_intent(value: Any, columns: Columns) -> list[Message]:
    """Read what was said with its intent; the answer is canonical JSON of intent and entities.

    The label is the answer itself, ``{"intent": NAME, "entities": {NAME: VALUE or [VALUES]}}``
    with sorted names: whoever scores it parses it.
    """
    row = as_object(value)
    query = text_of(row, columns.query if columns.query in row else columns.text)
    entities = _entities(structured(row.get(columns.entities)), columns.entities)
    label = {"intent": text_of(row, columns.intent), "entities": dict(sorted(entities.items()))}
    return pair(query, orjson.dumps(label).decode())


def _entities(value: Any, field: str) -> dict[str, Any]:
    if value is None or value == "":
        return {}
    if isinstance(value, dict):
        return value
    if not isinstance(value, list):
        raise Malformed(f"{field} is {shown(value)}, not a list or object")
    found: dict[str, list[Any]] = {}
    for item in value:
        row = as_object(item, f"an item of {field}")
        name = next((row[key] for key in _ENTITY_NAMES if isinstance(row.get(key), str)), None)
        content = row.get("value", row.get("text"))
        if name is None or content is None:
            raise Malformed(f"an item of {field} has no name and value; it has {fields_of(row)}")
        found.setdefault(name, []).append(content)
    return {name: said[0] if len(said) == 1 else said for name, said in found.items()}


def from_text(value: Any, columns: Columns) -> dict[str, Any]:
    """Read plain text, of which every token is learned."""
    content = value if isinstance(value, str) else text_of(as_object(value), columns.text)
    return {"text": checked(content, columns.text)}


def pair(question: str, answer: str) -> list[Message]:
    """Give the conversation of a question and its answer."""
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def _message(value: Any, number: int) -> Message | None:
    row = as_object(value, f"message {number}")
    role = row.get("role")
    if role not in ROLES:
        unknown_role(number, role)
    content = row.get("content")
    if is_no_system(role, content):
        return None
    if isinstance(content, list):
        content = _joined_parts(content, number)
    check_no_calls(row, number)
    message: Message = {"role": role, "content": checked(content, f"content of message {number}")}
    if role == "assistant" and _is_left_out(row, number):
        message["weight"] = 0
    return message


def _is_left_out(row: dict[str, Any], number: int) -> bool:
    weight = row.get("weight")
    if weight is not None and weight not in (0, 1):
        raise Malformed(
            f"weight of message {number} is {shown(weight)}; known are 1 (learn the answer) and 0"
            " (do not)"
        )
    return weight == 0


def unknown_role(
    number: int | str, role: Any, known: str = "system, user and assistant"
) -> NoReturn:
    """Raise Malformed for a message with a role that is not ``known``."""
    raise Malformed(f"message {number} has the role {shorten(repr(role), 40)}; known are {known}")


def _joined_parts(parts: list[Any], number: int) -> str:
    texts = [
        part.get("text") if isinstance(part, dict) and part.get("type") in _TEXT_PARTS else part
        for part in parts
    ]
    for place, text in enumerate(texts):
        if not isinstance(text, str):
            raise Malformed(
                f"message {number} has a part that is not text, {shown(parts[place])}; take it out"
            )
    return "".join(str(text) for text in texts)
