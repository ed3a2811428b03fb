"""From what stands in a file to a row's canonical form; with Auto the first row decides how.

One :class:`Reader` a source. Pure; called by ``reading``.
"""

from collections.abc import Callable, Mapping
from typing import Any

import orjson

from tunesmith_api.dataset import Corrections, DataFormat, Dataset, FeedbackFilter
from tunesmith_api.result import UserErrorReason
from tunesmith_trainer.data import formats, preferences
from tunesmith_trainer.data.chatlog import ChatLog
from tunesmith_trainer.data.columns import UnreadColumns, renamed
from tunesmith_trainer.data.containers import parse_json
from tunesmith_trainer.data.formats import Canonical
from tunesmith_trainer.data.mail import Unread, conversation, threads
from tunesmith_trainer.data.ratings import Said, said_in
from tunesmith_trainer.data.textfiles import format_of
from tunesmith_trainer.data.values import Malformed, as_object, fields_of, kind_of, text_of
from tunesmith_trainer.outcome import UserError

# The first that fits is taken, so what has more fields stands before what has fewer.
_ORDER = (
    DataFormat.PREFERENCE,
    DataFormat.INTENT,
    DataFormat.PROMPT_RESPONSE,
    DataFormat.CONVERSATIONS,
    DataFormat.MESSAGES,
    DataFormat.SHARE_GPT,
    DataFormat.USER_BOT,
    DataFormat.ALPACA,
    DataFormat.TEXT,
)


class Reader:
    """Parses rows of one format; with Auto the first readable row decides which."""

    def __init__(
        self,
        wanted: DataFormat,
        dataset: Dataset,
        late: Mapping[str, Said] | None = None,
        unread: UnreadColumns | None = None,
    ) -> None:
        """``late`` is what was said elsewhere, by the id of their conversation.

        ``unread`` is told which columns rows are read by.
        """
        self.wanted = wanted
        self._columns = dataset.columns
        self._feedback = dataset.feedback
        self._takes_corrections = dataset.corrections is Corrections.USE
        self._late = late or {}
        self._seen_row = False
        self._unread = unread or UnreadColumns(dataset.columns)
        self.chat = ChatLog(dataset.speakers)
        self.format: DataFormat | None = None if wanted is DataFormat.AUTO else wanted
        """What the rows are; None until Auto has seen one."""
        self._readers: dict[DataFormat, Callable[[Any], Canonical]] = {
            DataFormat.PROMPT_RESPONSE: lambda value: formats.from_prompt(value, self._columns),
            DataFormat.MESSAGES: lambda value: formats.from_messages(value, self._columns),
            DataFormat.CONVERSATIONS: lambda value: formats.from_log(value, self._columns),
            DataFormat.USER_BOT: formats.from_turns,
            DataFormat.ALPACA: lambda value: formats.from_alpaca(value, self._columns),
            DataFormat.SHARE_GPT: lambda value: formats.from_share_gpt(value, self._columns),
            DataFormat.INTENT: lambda value: formats.from_intent(value, self._columns),
            DataFormat.PREFERENCE: lambda value: preferences.from_preference(value, self._columns),
            DataFormat.TEXT: lambda value: formats.from_text(value, self._columns),
            DataFormat.CHAT_LOG: lambda value: self.chat.messages(self._text(value)),
            DataFormat.EMAIL_THREAD: self._thread,
        }

    def parse(self, raw: bytes) -> bytes | None:
        """Read one row of JSON, as :meth:`convert` does."""
        return self.convert(parse_json(raw))

    def convert(self, value: Any, place: str = "The first row") -> bytes | None:
        """Return the canonical form of one row; None where its feedback keeps it out.

        ``place`` is its file and line, for messages.

        Raises Malformed, and UserError (WrongColumns) when the first row has other fields than
        the format asks for: then all have, and the setting is wrong, not the row.
        """
        if isinstance(value, Malformed):
            raise value
        if self.format is None:
            self.format = self._detect(value, place)
        elif not self._seen_row and not self._fits(self.format, value):
            raise self._wrong_columns(value, place)
        self._seen_row = True
        self._unread.note(self.format, value)
        if self.format is DataFormat.CONVERSATIONS:
            if not self._is_wanted(value):
                return None
            value = self._corrected(value)
        try:
            return orjson.dumps(self._readers[self.format](value))
        except orjson.JSONEncodeError as error:
            raise Malformed(f"text that is not valid Unicode ({error})") from error

    def _text(self, value: Any) -> str:
        if isinstance(value, str):
            return value
        return text_of(as_object(value), self._columns.text)

    def _thread(self, value: Any) -> Canonical:
        if isinstance(value, list):
            return formats.check_messages(value)
        lines = enumerate(self._text(value).encode().splitlines(keepends=True), 1)
        mails = []
        for _, found in threads(lines):
            if isinstance(found, Unread):
                raise found.why
            mails += found
        if not mails:
            raise Malformed("no mail in it")
        return conversation(mails)

    def is_conversation(self, value: Any) -> bool:
        """Say whether a line of a log is more than feedback on a conversation elsewhere."""
        return not isinstance(value, dict) or self._columns.messages in value

    def rating(self, value: Any) -> str:
        """Give what was said of a logged conversation: good, bad, neutral, or empty.

        What was said last counts. An answer that a correction stands in for is a good one.
        """
        said = self._said(value)
        if self._takes_corrections and said.correction:
            return "good"
        return said.rating.text if said.rating else ""

    def _said(self, value: Any) -> Said:
        identity = value.get("id") if isinstance(value, dict) else None
        late = self._late.get(identity, Said()) if isinstance(identity, str) else Said()
        return said_in(value).then(late)

    def _corrected(self, value: Any) -> Any:
        """Put the correction of a logged conversation, if it is asked for, in its answer's place.

        The answer is the last message, as the sidecar writes it.
        """
        correction = self._said(value).correction if self._takes_corrections else None
        messages = value.get(self._columns.messages) if isinstance(value, dict) else None
        if correction is None or not isinstance(messages, list) or not messages:
            return value
        if not isinstance(messages[-1], dict) or messages[-1].get("role") != "assistant":
            return value
        answer = messages[-1] | {"content": correction.text}
        return value | {self._columns.messages: [*messages[:-1], answer]}

    def _is_wanted(self, value: Any) -> bool:
        if self.is_conversation(value):
            rating = self.rating(value)
            if self._feedback is FeedbackFilter.POSITIVE:
                return rating == "good"
            return self._feedback is FeedbackFilter.ANY or rating != "bad"
        # A line of feedback about a conversation that stands elsewhere.
        return "feedback" not in value

    def _detect(self, value: Any, place: str) -> DataFormat:
        for candidate in _ORDER:
            if self._fits(candidate, value):
                return self._kind_of_text(value) if candidate is DataFormat.TEXT else candidate
        if not isinstance(value, dict) and not (value and isinstance(value, list)):
            what = "an empty list" if value == [] else kind_of(value)
            raise Malformed(f"{what}, not a conversation")
        raise self._wrong_columns(value, place)

    def _kind_of_text(self, value: Any) -> DataFormat:
        text = value if isinstance(value, str) else value[self._columns.text]
        if not isinstance(text, str):
            return DataFormat.TEXT
        return format_of(iter(text.encode("utf-8", "replace").splitlines(keepends=True)), self.chat)

    def _fits(self, format_: DataFormat, value: Any) -> bool:
        if isinstance(value, str):
            return format_ in (DataFormat.TEXT, DataFormat.CHAT_LOG, DataFormat.EMAIL_THREAD)
        first = value[0] if isinstance(value, list) and value else value
        if not isinstance(first, dict):
            return False
        if first is not value:
            inner = {
                DataFormat.MESSAGES: {"role"},
                DataFormat.EMAIL_THREAD: {"role"},
                DataFormat.SHARE_GPT: {"from"},
                DataFormat.USER_BOT: {"user", "bot"},
            }
            return format_ in inner and inner[format_] <= first.keys()
        return any(names <= value.keys() for names in self._names(format_))

    def _names(self, format_: DataFormat) -> list[set[str]]:
        """Give the sets of fields that rows of a format have; any of them will do."""
        names = self._columns
        return {
            DataFormat.PROMPT_RESPONSE: [{names.prompt, names.response}],
            DataFormat.MESSAGES: [{names.messages}],
            DataFormat.CONVERSATIONS: [
                {names.messages, "revision", "feedback"},
                {"id", "revision", "feedback"},
            ],
            DataFormat.USER_BOT: [{"user", "bot"}],
            DataFormat.ALPACA: [{names.instruction, names.output}],
            DataFormat.SHARE_GPT: [{names.conversations}],
            DataFormat.INTENT: [{names.intent, names.query}, {names.intent, names.text}],
            DataFormat.PREFERENCE: [{names.chosen, names.rejected}],
        }.get(format_, [{names.text}])

    def _wrong_columns(self, value: Any, place: str) -> UserError:
        return UserError(
            UserErrorReason.WRONG_COLUMNS,
            f"{place} has {fields_of(value)}. Format {self.wanted.value} looks for"
            f" {self._looked_for()}. Set dataset.columns to the names of your fields, or"
            f" dataset.format to the shape of your rows.{self._of_all_sources()}",
        )

    def _of_all_sources(self) -> str:
        """Say what is easily missed where one source of several needs other names."""
        return " dataset.columns holds for all sources." if renamed(self._columns) else ""

    def _looked_for(self) -> str:
        wanted = _ORDER if self.wanted is DataFormat.AUTO else (self.wanted,)
        return ", or ".join(
            " and ".join(sorted(self._names(format_)[0]))
            for format_ in wanted
            if format_ is not DataFormat.CONVERSATIONS or len(wanted) == 1
        )
