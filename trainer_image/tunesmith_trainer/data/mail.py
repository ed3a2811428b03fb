"""Mail threads: a question in one mail, the answer in the next.

A mail begins with an mbox line ("From NAME DATE") or, in other files, with a paragraph of headers
that has From and one of Subject, To and Date. A mail goes on with the thread that its In-Reply-To
or References name; without these, a "Re:" goes on with the newest open thread of its subject. Who
wrote the first mail of a thread is the user, everybody else the assistant. Quoted lines, what
introduces them, and signatures are left out. Pure; called by ``textfiles`` and ``rows``.
"""

import re
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from email import message_from_bytes, policy
from email.utils import parseaddr
from typing import NamedTuple

from tunesmith_trainer.data.chatlog import joined
from tunesmith_trainer.data.containers import LONGEST_LINE_BYTES
from tunesmith_trainer.data.formats import Message, closed
from tunesmith_trainer.data.values import Malformed

_MBOX = re.compile(rb"From \S.*\d{4}")
_HEADER = re.compile(rb"[A-Za-z][A-Za-z0-9-]*:(?: |\t|\r?\n|$)|[ \t]+\S")
_REPLY = re.compile(r"\s*(?:re|aw|sv|antw|odp|fwd?|wg)\s*(?:\[\d+\])?\s*:\s*", re.IGNORECASE)
_QUOTES = re.compile(
    r"^(?:On .{5,200} wrote:|Am .{5,200} schrieb.{0,200}:|-+ ?Original Message ?-+)\s*$"
)
_IDS = re.compile(r"<[^<>\s]+>")
_RULE = re.compile(rb"\s*([-=*_])\1{2,}\s*$")
_OPEN_THREADS = 4096


class Mail(NamedTuple):
    """What of a mail counts."""

    sender: str
    """Address, in small letters."""
    subject: str
    """Without Re: and the like, in small letters."""
    is_reply: bool
    identity: str
    answers: tuple[str, ...]
    """Identities of the mails before it in the thread."""
    text: str


def begins_mail(paragraph: list[bytes]) -> bool:
    """Say whether a paragraph is the headers of a mail."""
    if _MBOX.match(paragraph[0]):
        return True
    if not all(_HEADER.match(line) for line in paragraph):
        return False
    names = {line.split(b":")[0].lower() for line in paragraph}
    return b"from" in names and bool(names & {b"subject", b"to", b"date"})


class Unread(NamedTuple):
    """A mail that cannot be read."""

    why: Malformed
    raw: bytes


def threads(lines: Iterable[tuple[int, bytes]]) -> Iterator[tuple[int, list[Mail] | Unread]]:
    """Give the threads of a file, each with the line it begins in.

    A thread is given when the file ends, or when it is the oldest of more than 4096 open ones.
    """
    is_open: OrderedDict[int, list[Mail]] = OrderedDict()
    by_identity: dict[str, int] = {}
    by_subject: dict[str, int] = {}
    for line, raw in _mails(lines):
        try:
            mail = parse_mail(raw)
        except Malformed as error:
            yield line, Unread(error, raw)
            continue
        known = (by_identity[i] for i in mail.answers if by_identity.get(i) in is_open)
        found = next(known, by_subject.get(mail.subject) if _by_subject(mail) else None)
        thread = found if found in is_open and found is not None else line
        is_open.setdefault(thread, []).append(mail)
        by_identity[mail.identity or f"line {line}"] = thread
        by_subject[mail.subject] = thread
        if len(is_open) > _OPEN_THREADS:
            oldest, mails = is_open.popitem(last=False)
            by_identity = {k: v for k, v in by_identity.items() if v != oldest}
            by_subject = {k: v for k, v in by_subject.items() if v != oldest}
            yield oldest, mails
    yield from is_open.items()


def _by_subject(mail: Mail) -> bool:
    return mail.is_reply and not mail.answers


def conversation(mails: list[Mail]) -> list[Message]:
    """Give the conversation of a thread. Raises Malformed."""
    asker = mails[0].sender
    return closed(
        joined(
            [
                {"role": "user" if mail.sender == asker else "assistant", "content": mail.text}
                for mail in mails
            ]
        )
    )


def parse_mail(raw: bytes) -> Mail:
    """Read one mail. Raises Malformed."""
    try:
        message = message_from_bytes(raw, policy=policy.default)
        part = message.get_body(preferencelist=("plain",))
        text = str(part.get_content()) if part is not None else ""
        subject = str(message.get("Subject", ""))
        sender = parseaddr(str(message.get("From", "")))[1] or str(message.get("From", ""))
        answers = str(message.get("In-Reply-To", "")) + str(message.get("References", ""))
        identity = str(message.get("Message-ID", "")).strip()
    except (ValueError, LookupError, TypeError, AttributeError, IndexError) as error:
        # The parser of the standard library fails in many ways on headers of real mail.
        raise Malformed(f"not a mail ({type(error).__name__}: {error})") from error
    if not sender:
        raise Malformed("a mail without From")
    if "�" in text and part is not None and not part.get_content_charset():
        raise Malformed("a mail that is neither UTF-8 nor says what else it is")
    plain = subject
    while found := _REPLY.match(plain):
        plain = plain[found.end() :]
    return Mail(
        sender.lower(),
        " ".join(plain.lower().split()),
        plain != subject,
        identity,
        tuple(_IDS.findall(answers)),
        _own_words(text),
    )


def _own_words(text: str) -> str:
    kept: list[str] = []
    for line in text.splitlines():
        if line == "-- " or _QUOTES.match(line):
            break
        if not line.startswith(">"):
            kept.append(line.rstrip())
    return "\n".join(kept).strip()


def _mails(lines: Iterable[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    first, mail, is_mbox = 0, bytearray(), False
    for number, paragraph in _paragraphs(lines):
        mbox_line = bool(_MBOX.match(paragraph[0]))
        is_mbox = is_mbox or (mbox_line and not first)
        if mbox_line if is_mbox else begins_mail(paragraph):
            if first:
                yield first, bytes(mail)
            first, mail = number, bytearray()
        text = paragraph[1:] if mbox_line else paragraph
        # What comes after this is attachments, which are not read.
        if len(mail) < LONGEST_LINE_BYTES:
            mail += b"\n".join(line.rstrip(b"\r\n") for line in text) + b"\n\n"
        first = first or number
    if first:
        yield first, bytes(mail)


def _paragraphs(lines: Iterable[tuple[int, bytes]]) -> Iterator[tuple[int, list[bytes]]]:
    first, size, paragraph = 0, 0, list[bytes]()
    for number, line in lines:
        is_part = bool(line.strip()) and not _RULE.match(line)
        if is_part:
            first = first or number
            size += len(line)
            paragraph.append(line)
        if paragraph and (not is_part or size > LONGEST_LINE_BYTES):
            yield first, paragraph
            first, size, paragraph = 0, 0, []
    if paragraph:
        yield first, paragraph
