"""The values in a row's fields: what they must be, and what is said of those that are not.

Pure; called by ``formats`` and whatever else reads rows.
"""

from typing import Any

import orjson

from tunesmith_trainer.outcome import shorten

_MANY = 20
_EXCERPT = 60


class Malformed(Exception):
    """A row that cannot be used; the text says what is wrong with it."""


class RestLost(Malformed):
    """A row behind which nobody can tell what else there is in its file."""


def structured(value: Any) -> Any:
    """Parse JSON that stands as text in a cell of a table; anything else is given back as it is."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return orjson.loads(value)
        except orjson.JSONDecodeError:
            return value
    return value


def as_object(value: Any, what: str = "the row") -> dict[str, Any]:
    """Give the value if it is an object. Raises Malformed."""
    if not isinstance(value, dict):
        raise Malformed(f"{what} is {shown(value)}, not an object")
    return value


def list_of(value: Any, name: str) -> list[Any]:
    """Give a list of messages with something in it. Raises Malformed."""
    given = structured(value)
    if given == []:
        raise Malformed(f"{name} is an empty list; give at least a question and its answer")
    if not isinstance(given, list):
        # As pandas writes it into CSV.
        is_python = isinstance(given, str) and given.lstrip().startswith("[{'")
        do = "; write it as JSON, which has double quotes" if is_python else ""
        raise Malformed(f"{name} is {shown(given)}, not a list of messages{do}")
    return given


def text_of(row: dict[str, Any], name: str, of: str = "") -> str:
    """Give a field that must hold text; ``of`` says in which part of a row. Raises Malformed."""
    return checked(field_of(row, name, of), name + of)


def field_of(row: dict[str, Any], name: str, of: str = "") -> Any:
    """Give a field that must be there. Raises Malformed."""
    if name not in row:
        raise Malformed(f"no field {name}{of}; it has {fields_of(row)}")
    return row[name]


def checked(value: Any, what: str) -> str:
    """Give the value if it is text with something in it. Raises Malformed."""
    if not isinstance(value, str):
        raise Malformed(f"{what} is {shown(value)}, not text")
    if not value.strip():
        raise Malformed(f"{what} is empty")
    return value


def shown(value: Any) -> str:
    """Name what a value is, and how it begins where that says more, for messages."""
    kind = kind_of(value)
    if value is None or isinstance(value, bool):
        return kind
    beginning = value[:_EXCERPT] if isinstance(value, str | list) else value
    return f"{kind} ({shorten(repr(beginning), _EXCERPT)})"


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
