"""Text that people wrote: chat logs, mail threads, documents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.trainer.reading_rows import HI, pair, read
from tunesmith_api.dataset import DataFormat
from tunesmith_trainer.outcome import UserError

CHAT = """\
[2026-01-31 12:30:05] Customer: Hi
[2026-01-31 12:30:09] Agent: Hello,
how are you?
Note: this goes on.
---
<user>: One?
<bot>: Two.

User: Next?
Bot: Yes.
"""
SPACED = "User: Hi\n\nBot: Hello\n\nUser: Bye\n\nBot: See you\n"
TIMED = (
    "2026-01-31T12:30 User: Hi\n2026-01-31T12:31 Bot: Hello\n"
    "2026-01-31T12:32 User: Bye\n2026-01-31T12:33 Bot: See you\n"
    "2026-01-31T14:00 User: Hi\n2026-01-31T14:01 Bot: Hello\n"
)
PHONE = "31.01.26, 12:30 - User: Hi\n31.01.26, 12:31 - Bot: Hel\n31.01.26, 12:31 - Bot: lo\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(
            CHAT,
            [
                (1, pair("Hi", "Hello,\nhow are you?\nNote: this goes on.")),
                (6, pair("One?", "Two.")),
                (9, pair("Next?", "Yes.")),
            ],
            id="time stamps, a rule, a blank line",
        ),
        pytest.param(
            SPACED,
            [(1, [*HI, *pair("Bye", "See you")])],
            id="blank lines between all turns part nothing",
        ),
        pytest.param(
            TIMED, [(1, [*HI, *pair("Bye", "See you")]), (5, HI)], id="an hour of silence"
        ),
        pytest.param(PHONE, [(1, pair("Hi", "Hel\nlo"))], id="a telephone's export"),
    ],
)
def test_chat_logs(text: str, expected: Any, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(text)
    rows, _, made = read(tmp_path / "a.txt")
    assert made.format is DataFormat.CHAT_LOG
    assert [(row.line, orjson.loads(row.content)) for row in rows] == expected


def test_speakers_have_other_names(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_text("ann: Hi\nBob: Hello\n")
    speakers = {"user": ["Ann"], "assistant": ["Bob"]}
    rows, _, _ = read(tmp_path / "a.log", speakers=speakers)
    assert [orjson.loads(row.content) for row in rows] == [HI]


MBOX = """\
From ann@x Sat Jan 31 12:30:05 2026
From: Ann <ann@x.org>
Subject: Printer
Message-ID: <1@x>

It does not print.

--\x20
Ann
From eve@x Sat Jan 31 12:31:05 2026
From: eve@x.org
Subject: Printer
Message-ID: <2@x>
Content-Type: text/plain; charset=utf-8
Content-Transfer-Encoding: quoted-printable

Mine burns. Gr=C3=BC=C3=9Fe

From bob@y Sat Jan 31 12:32:05 2026
From: bob@y.org
Subject: Re: Printer
In-Reply-To: <1@x>

Switch it on.

On Saturday Ann wrote:
> It does not print.
"""
PLAIN_MAILS = """\
From: ann@x.org
Subject: Printer

It does not print.

Subject: RE: Printer
From: bob@y.org

Switch it on.

From: ann@x.org
Subject: Re: Printer

Thanks.

"""


def test_mail_threads(tmp_path: Path) -> None:
    (tmp_path / "a.mbox").write_text(MBOX.replace("\nFrom ", "\n\nFrom "))
    rows, _, made = read(tmp_path / "a.mbox")
    assert made.format is DataFormat.EMAIL_THREAD
    assert [(row.line, orjson.loads(row.content)) for row in rows] == [
        (2 - 1, pair("It does not print.", "Switch it on.")),
        (11, [{"role": "user", "content": "Mine burns. Grüße"}]),
    ]
    (tmp_path / "b.txt").write_text(PLAIN_MAILS)
    rows, _, _ = read(tmp_path / "b.txt")
    assert [orjson.loads(row.content) for row in rows] == [
        pair("It does not print.", "Switch it on.")
    ]


def test_documents_of_a_text_file_are_parted_by_blank_lines(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\ufeffOne\ntwo\n\n\nThree: four\n")
    rows, _, made = read(tmp_path / "a.txt")
    assert made.format is DataFormat.TEXT
    assert [(row.line, orjson.loads(row.content)["text"]) for row in rows] == [
        (1, "One\ntwo"),
        (5, "Three: four"),
    ]


def test_line_ends_of_windows_are_not_learned(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"One\r\nand on\r\n\r\nTwo\r\n")
    found, _, _ = read(tmp_path / "a.txt")
    assert [orjson.loads(row.content)["text"] for row in found] == ["One\nand on", "Two"]


def test_a_text_file_where_rows_were_said_names_both(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("One")
    with pytest.raises(UserError, match="format Alpaca cannot read"):
        read(tmp_path / "a.txt", format="Alpaca")
