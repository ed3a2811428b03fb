"""Which names of ``dataset.columns`` rows are read by, so that a misspelt one is found.

A required field that is missing is found in the first row by ``rows``; an optional one, such as
Alpaca's input, would be missing from all rows in silence. Pure; ``rows`` notes what it reads,
``gathering`` asks at the end.
"""

from typing import Any

from tunesmith_api.dataset import Columns, DataFormat
from tunesmith_api.result import UserErrorReason
from tunesmith_trainer.outcome import UserError, shorten

_READ_BY = {
    DataFormat.PROMPT_RESPONSE: ("prompt", "response"),
    DataFormat.MESSAGES: ("messages",),
    DataFormat.CONVERSATIONS: ("messages",),
    DataFormat.USER_BOT: (),
    DataFormat.ALPACA: ("instruction", "input", "output"),
    DataFormat.SHARE_GPT: ("conversations",),
    DataFormat.INTENT: ("query", "text", "intent", "entities"),
    DataFormat.PREFERENCE: ("prompt", "chosen", "rejected"),
    DataFormat.TEXT: ("text",),
    DataFormat.CHAT_LOG: ("text",),
    DataFormat.EMAIL_THREAD: ("text",),
}
_DEFAULTS = Columns()


def renamed(columns: Columns) -> dict[str, str]:
    """Give the fields that the user has set, each with its name."""
    given: dict[str, str] = columns.model_dump()
    return {field: name for field, name in given.items() if name != getattr(_DEFAULTS, field)}


class UnreadColumns:
    """The names that no row has been read by so far; one for all sources of a data set."""

    def __init__(self, columns: Columns) -> None:
        self._names = renamed(columns)

    def note(self, format_: DataFormat, row: Any) -> None:
        """Take the names off that a row of a format is read by."""
        if not self._names or not isinstance(row, dict):
            return
        for field in _READ_BY[format_]:
            if self._names.get(field) in row:
                del self._names[field]

    def check(self, formats: str) -> None:
        """Raise UserError (WrongColumns) where one is left; ``formats`` says what the rows are.

        One of several sources may lack what another one has, so all are to be read before.
        """
        for field, name in self._names.items():
            raise UserError(
                UserErrorReason.WRONG_COLUMNS,
                f"dataset.columns.{field} is {shorten(repr(name), 60)}, which no row is read by:"
                f" none has a field of that name, or the format ({formats}) has no use for it."
                " Correct the name, or take it out.",
            )
