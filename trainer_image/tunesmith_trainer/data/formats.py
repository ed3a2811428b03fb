"""The shapes a row may have, and what makes one malformed.

Each function takes the parsed value of one row and gives its canonical form: for a conversation a
list of ``{"role", "content"}``, with ``"weight": 0`` at answers that are not to be learned; for
plain text ``{"text"}``. Preferences are in ``preferences``. Pure; called by ``rows``.
"""

from typing import Any, NoReturn

import orjson

from tunesmith_api.dataset import Columns
from tunesmith_trainer.outcome import shorten

Message = dict[str, Any]
Canonical = list[Message] | dict[str, Any]
_ROLES = frozenset({"system", "user", "assistant"})
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
_ENTITY_NAMES = ("entity", "name", "type", "label")
_MANY = 20


class Malformed(Exception):
    """A row that cannot be used; the text says what is wrong with it."""


def from_prompt(value: Any, columns: Columns) -> list[Message]:
    """Read a question and its answer."""
    row = as_object(value)
    return pair(text_of(row, columns.prompt), text_of(row, columns.response))


def from_turns(value: Any) -> list[Message]:
    """Read {"user", "bot"}, or a list of them."""
    turns = value if isinstance(value, list) else [value]
    if not turns:
        raise Malformed("an empty conversation")
    messages: list[Message] = []
    for turn in turns:
        row = as_object(turn)
        messages += pair(text_of(row, "user"), text_of(row, "bot"))
    return messages


def from_messages(value: Any, columns: Columns) -> list[Message]:
    """Read OpenAI's messages, in a field or as a bare list."""
    return check_messages(value.get(columns.messages) if isinstance(value, dict) else value)


def check_messages(value: Any) -> list[Message]:
    """Read a list of messages; questions behind the last answer are left out."""
    given = structured(value)
    if not isinstance(given, list) or not given:
        raise Malformed("messages is not a list with something in it")
    return closed(_begun([_message(item, number) for number, item in enumerate(given, 1)]))


def _begun(messages: list[Message]) -> list[Message]:
    # In logs of chats agents greet first; in messages it is a row whose roles were swapped.
    if messages[0]["role"] == "assistant":
        raise Malformed(
            "the first message is the assistant's, an answer to nothing; begin with one of the"
            " user or the system"
        )
    return messages


def closed(messages: list[Message]) -> list[Message]:
    """Check the places of system messages and drop what nothing is learned from at the end."""
    if any(message["role"] == "system" for message in messages[1:]):
        raise Malformed("a system message that is not the first")
    while messages and messages[-1]["role"] != "assistant" and len(messages) > 1:
        messages.pop()
    return messages


def from_alpaca(value: Any, columns: Columns) -> list[Message]:
    """Read Stanford Alpaca's instruction, input and output; an input follows after a blank line."""
    row = as_object(value)
    question = text_of(row, columns.instruction)
    further = row.get(columns.input)
    if further is not None and not isinstance(further, str):
        raise Malformed(f"{columns.input} is {kind_of(further)}, not text")
    if further and further.strip():
        question = f"{question}\n\n{further}"
    messages = pair(question, text_of(row, columns.output))
    system = row.get("system")
    if isinstance(system, str) and system.strip():
        messages.insert(0, {"role": "system", "content": system})
    return messages


def from_share_gpt(value: Any, columns: Columns) -> list[Message]:
    """Read turns of {"from", "value"}; a field "system" beside them is the system message."""
    row = as_object(value) if not isinstance(value, list) else {columns.conversations: value}
    turns = structured(row.get(columns.conversations))
    if not isinstance(turns, list) or not turns:
        raise Malformed(f"{columns.conversations} is not a list with something in it")
    messages = [_turn(item, number) for number, item in enumerate(turns, 1)]
    system = row.get("system")
    if isinstance(system, str) and system.strip() and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": system})
    return closed(_begun(messages))


def _turn(value: Any, number: int) -> Message:
    row = as_object(value)
    said = row.get("from", row.get("role"))
    role = _SHARE_GPT_ROLES.get(said.lower()) if isinstance(said, str) else None
    if role is None:
        _unknown_role(number, said, "human, gpt and system")
    content = row.get("value", row.get("content"))
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
        raise Malformed(f"{field} is {kind_of(value)}, not a list or object")
    found: dict[str, list[Any]] = {}
    for item in value:
        row = as_object(item)
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


def _message(value: Any, number: int) -> Message:
    row = as_object(value)
    role = row.get("role")
    if role not in _ROLES:
        _unknown_role(number, role, "system, user and assistant")
    content = row.get("content")
    if isinstance(content, list):
        content = _joined_parts(content, number)
    message: Message = {"role": role, "content": checked(content, f"content of message {number}")}
    if role == "assistant" and row.get("weight", 1) == 0:
        message["weight"] = 0
    return message


def _unknown_role(number: int, role: Any, known: str) -> NoReturn:
    raise Malformed(f"message {number} has the role {shorten(repr(role), 40)}; known are {known}")


def _joined_parts(parts: list[Any], number: int) -> str:
    texts = [
        part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None
        for part in parts
    ]
    if not all(isinstance(text, str) for text in texts):
        raise Malformed(f"message {number} has parts that are not text")
    return "".join(str(text) for text in texts)


def structured(value: Any) -> Any:
    """Parse JSON that stands as text in a cell of a table; anything else is given back as it is."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return orjson.loads(value)
        except orjson.JSONDecodeError:
            return value
    return value


def as_object(value: Any) -> dict[str, Any]:
    """Give the value if it is an object. Raises Malformed."""
    if not isinstance(value, dict):
        raise Malformed(f"{kind_of(value)} where an object is expected")
    return value


def text_of(row: dict[str, Any], name: str) -> str:
    """Give a field that must hold text. Raises Malformed."""
    if name not in row:
        raise Malformed(f"no field {name}; it has {fields_of(row)}")
    return checked(row[name], name)


def checked(value: Any, what: str) -> str:
    """Give the value if it is text with something in it. Raises Malformed."""
    if not isinstance(value, str):
        raise Malformed(f"{what} is {kind_of(value)}, not text")
    if not value.strip():
        raise Malformed(f"{what} is empty")
    return value


def kind_of(value: Any) -> str:
    """Name what a value is in the words of JSON, for messages."""
    if isinstance(value, bool) or value is None:
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int | float):
        return "a number"
    names = {"str": "a text", "list": "a list", "dict": "an object"}
    name = type(value).__name__
    return names.get(name, f"a {name}")


def fields_of(value: Any) -> str:
    """Name the fields of a row, for messages."""
    first = value[0] if isinstance(value, list) and value else value
    if not isinstance(first, dict):
        return f"no fields: it is {kind_of(first)}"
    names = sorted(map(str, first))[:_MANY]
    return shorten("the fields " + ", ".join(names), 300) if names else "no fields"
