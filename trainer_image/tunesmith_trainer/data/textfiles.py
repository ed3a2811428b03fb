"""Files of plain text: documents, chat logs or mails, told apart by how the file begins.

Called by ``reading`` with the format that was asked for or found, and by ``rows`` for text in a
field.
"""

import re
from collections.abc import Iterator
from itertools import chain, islice

from tunesmith_api.dataset import DataFormat
from tunesmith_trainer.data.chatlog import ChatLog
from tunesmith_trainer.data.compression import SourceFile, open_text
from tunesmith_trainer.data.containers import LONGEST_LINE_BYTES, Record, not_utf8
from tunesmith_trainer.data.mail import Unread, begins_mail, conversation, threads
from tunesmith_trainer.data.values import Malformed

TEXT_FORMATS = (DataFormat.TEXT, DataFormat.CHAT_LOG, DataFormat.EMAIL_THREAD)
_HEAD_LINES = 200
_RULE = re.compile(rb"\s*([-=*#_])\1{2,}\s*$")
Lines = Iterator[tuple[int, bytes]]


def detect_text(file: SourceFile, chat: ChatLog) -> DataFormat:
    """Say what a file of text is, by its first paragraph and its first line."""
    with open_text(file) as stream:
        return format_of(iter(lambda: stream.readline(LONGEST_LINE_BYTES), b""), chat)


def format_of(lines: Iterator[bytes], chat: ChatLog) -> DataFormat:
    """Say what text is, of which at most 200 lines are looked at."""
    paragraph: list[bytes] = []
    for line in islice(lines, _HEAD_LINES):
        is_part = bool(line.strip()) and not _RULE.match(line)
        if paragraph and not is_part:
            break
        paragraph += [line.removeprefix(b"\xef\xbb\xbf")] if is_part else []
    if paragraph and begins_mail(paragraph):
        return DataFormat.EMAIL_THREAD
    if paragraph and chat.begins_turn(paragraph[0].decode(errors="replace")):
        return DataFormat.CHAT_LOG
    return DataFormat.TEXT


def text_records(file: SourceFile, format_: DataFormat, chat: ChatLog) -> Iterator[Record]:
    """Give the documents or conversations of a file of text."""
    with open_text(file) as stream:
        lines = _lines(iter(lambda: stream.readline(LONGEST_LINE_BYTES), b""))
        if format_ is DataFormat.EMAIL_THREAD:
            yield from _threads(lines)
        elif format_ is DataFormat.CHAT_LOG:
            decoded = ((n, line.decode("utf-8", "surrogateescape")) for n, line in lines)
            for number, text in chat.conversations(decoded):
                yield _record(number, text.encode("utf-8", "surrogateescape"))
        else:
            yield from _documents(lines)


def _lines(raw: Iterator[bytes]) -> Lines:
    first = next(raw, b"").removeprefix(b"\xef\xbb\xbf")
    return enumerate(chain([first] if first else [], raw), 1)


def _documents(lines: Lines) -> Iterator[Record]:
    """Give what stands between blank lines; a document without end is given in parts."""
    first, size = 0, 0
    parts: list[bytes] = []
    for number, line in lines:
        if line.strip():
            first = first or number
            parts.append(line)
            size += len(line)
        if parts and (not line.strip() or size > LONGEST_LINE_BYTES):
            yield _document(first, parts)
            first, size, parts = 0, 0, []
    if parts:
        yield _document(first, parts)


def _document(line: int, parts: list[bytes]) -> Record:
    # How lines end is of the machine that wrote the file, and nothing to learn.
    return _record(line, b"".join(parts).replace(b"\r\n", b"\n"))


def _record(line: int, raw: bytes) -> Record:
    return Record(line, not_utf8(raw) or raw.decode().strip("\r\n"), raw)


def _threads(lines: Lines) -> Iterator[Record]:
    for number, mails in threads(lines):
        if isinstance(mails, Unread):
            yield Record(number, mails.why, mails.raw)
            continue
        raw = f"{mails[0].sender} {mails[0].subject}".encode("utf-8", "replace")
        try:
            # Messages, not mails: what a mail is stays in one module.
            yield Record(number, conversation(mails), raw)
        except Malformed as error:
            yield Record(number, error, raw)
