"""The shapes a row may have, and what makes one malformed.

Takes the bytes of one row, gives the conversation as canonical JSON: a list of
``{"role", "content"}``, with ``"weight": 0`` at answers that are not to be learned. Pure; called
by ``reading``.
"""

from typing import Any

import orjson

from tunesmith_api.dataset import Columns, DataFormat
from tunesmith_api.run import UserErrorReason
from tunesmith_trainer.outcome import UserError, shorten

Message = dict[str, Any]
_ROLES = frozenset({"system", "user", "assistant"})
_MANY = 20


class Malformed(Exception):
    """A row that cannot be used; the text says what is wrong with it."""


class Reader:
    """Parses rows of one format; with Auto the first readable row decides which."""

    def __init__(self, wanted: DataFormat, columns: Columns) -> None:
        self._wanted = wanted
        self._columns = columns
        self._seen_row = False
        self.format: DataFormat | None = None if wanted is DataFormat.AUTO else wanted
        """What the rows are; None until Auto has seen one."""

    def parse(self, raw: bytes) -> bytes:
        """Return the canonical form of one row.

        Raises Malformed, and UserError (WrongColumns) when the first row has other fields than
        the format asks for: then all have, and the setting is wrong, not the row.
        """
        value = _parse_json(raw)
        if self.format is None:
            self.format = self._detect(value)
        elif not self._seen_row and not self._fits(self.format, value):
            raise self._wrong_columns(value)
        self._seen_row = True
        return orjson.dumps(self._messages(self.format, value))

    def _messages(self, format_: DataFormat, value: Any) -> list[Message]:
        if format_ is DataFormat.MESSAGES:
            messages = value.get("messages") if isinstance(value, dict) else value
            return _from_messages(messages)
        if format_ is DataFormat.USER_BOT:
            return _from_turns(value)
        return _from_prompt(value, self._columns)

    def _detect(self, value: Any) -> DataFormat:
        order = (DataFormat.PROMPT_RESPONSE, DataFormat.MESSAGES, DataFormat.USER_BOT)
        for candidate in order:
            if self._fits(candidate, value):
                return candidate
        if not isinstance(value, dict) and not (value and isinstance(value, list)):
            raise Malformed(f"an empty list or a {type(value).__name__}, not a conversation")
        raise self._wrong_columns(value)

    def _fits(self, format_: DataFormat, value: Any) -> bool:
        first = value[0] if isinstance(value, list) and value else value
        if not isinstance(first, dict):
            return False
        if format_ is DataFormat.MESSAGES:
            return "messages" in first if first is value else "role" in first
        if format_ is DataFormat.USER_BOT:
            return "user" in first and "bot" in first
        names = (self._columns.prompt, self._columns.response)
        return first is value and all(name in first for name in names)

    def _wrong_columns(self, value: Any) -> UserError:
        return UserError(
            UserErrorReason.WRONG_COLUMNS,
            f"The first row has {_fields(value)}. dataset.format {self._wanted.value} looks for"
            f" {self._looked_for()}. Set dataset.columns.prompt and dataset.columns.response to"
            " the names of your fields, or dataset.format to the shape of your rows.",
        )

    def _looked_for(self) -> str:
        shapes = {
            DataFormat.PROMPT_RESPONSE: f"{self._columns.prompt} and {self._columns.response}",
            DataFormat.MESSAGES: "messages (a list of role and content)",
            DataFormat.USER_BOT: "user and bot",
        }
        if self._wanted is DataFormat.AUTO:
            return ", or ".join(shapes.values())
        return shapes[self._wanted]


def _parse_json(raw: bytes) -> Any:
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        try:
            raw.decode()
        except UnicodeDecodeError as unicode_error:
            raise Malformed(
                f"not UTF-8 (byte 0x{raw[unicode_error.start]:02x} at {unicode_error.start})"
            ) from error
        raise Malformed(f"not JSON ({error.msg} at character {error.colno})") from error


def _from_prompt(value: Any, columns: Columns) -> list[Message]:
    row = _object(value)
    return [
        {"role": "user", "content": _text(row, columns.prompt)},
        {"role": "assistant", "content": _text(row, columns.response)},
    ]


def _from_turns(value: Any) -> list[Message]:
    turns = value if isinstance(value, list) else [value]
    if not turns:
        raise Malformed("an empty conversation")
    messages: list[Message] = []
    for turn in turns:
        row = _object(turn)
        messages.append({"role": "user", "content": _text(row, "user")})
        messages.append({"role": "assistant", "content": _text(row, "bot")})
    return messages


def _from_messages(value: Any) -> list[Message]:
    if not isinstance(value, list) or not value:
        raise Malformed("messages is not a list with something in it")
    messages = [_message(item, number) for number, item in enumerate(value, 1)]
    if any(message["role"] == "system" for message in messages[1:]):
        raise Malformed("a system message that is not the first")
    # Nothing is learned from what comes after the last answer.
    while messages and messages[-1]["role"] != "assistant" and len(messages) > 1:
        messages.pop()
    return messages


def _message(value: Any, number: int) -> Message:
    row = _object(value)
    role = row.get("role")
    if role not in _ROLES:
        raise Malformed(
            f"message {number} has the role {shorten(repr(role), 40)}; known are system, user and"
            " assistant"
        )
    content = row.get("content")
    if isinstance(content, list):
        content = _joined_parts(content, number)
    message: Message = {"role": role, "content": _checked(content, f"content of message {number}")}
    if role == "assistant" and row.get("weight", 1) == 0:
        message["weight"] = 0
    return message


def _joined_parts(parts: list[Any], number: int) -> str:
    texts = [
        part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None
        for part in parts
    ]
    if not all(isinstance(text, str) for text in texts):
        raise Malformed(f"message {number} has parts that are not text")
    return "".join(str(text) for text in texts)


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Malformed(f"a {type(value).__name__} where an object is expected")
    return value


def _text(row: dict[str, Any], name: str) -> str:
    if name not in row:
        raise Malformed(f"no field {name}; it has {_fields(row)}")
    return _checked(row[name], name)


def _checked(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise Malformed(f"{what} is a {type(value).__name__}, not text")
    if not value.strip():
        raise Malformed(f"{what} is empty")
    return value


def _fields(value: Any) -> str:
    first = value[0] if isinstance(value, list) and value else value
    if not isinstance(first, dict):
        return f"no fields: it is a {type(first).__name__}"
    names = sorted(first)[:_MANY]
    return shorten("the fields " + ", ".join(map(str, names)), 300) if names else "no fields"
