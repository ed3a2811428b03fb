"""What dataset.clean does to rows: repairs, masks, reasons for which rows are dropped."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import orjson
import pytest

from tests.trainer.scratch_room import SCRATCH
from tunesmith_api.cleaning import Clean, TextPolicy
from tunesmith_trainer.data import repair
from tunesmith_trainer.data.cleaning import Cleaner
from tunesmith_trainer.data.judging import (
    LanguageFilter,
    ProfanityFilter,
    is_repetitive,
    quality,
)
from tunesmith_trainer.data.masking import Kind, Masker
from tunesmith_trainer.data.reading import Row
from tunesmith_trainer.data.tally import Tally
from tunesmith_trainer.outcome import UserError

ENGLISH = "The kettle does not boil the water any more, and I would like to return it to you."
CODE = "List<T> a<b and c>d <foo>"
GERMAN = "Der Wasserkocher geht nicht mehr, und ich würde ihn gerne an Sie zurückschicken."


def cleaned(values: list[Any], **clean: Any) -> tuple[list[Any], Tally]:
    tally = Tally()
    rows = [Row(orjson.dumps(value), "f", line) for line, value in enumerate(values, 1)]
    kept = Cleaner(Clean.model_validate(clean), tally, SCRATCH).clean(rows)
    return [orjson.loads(row.content) for row in kept], tally


def chat(*texts: str) -> list[dict[str, str]]:
    return [
        {"role": role, "content": text}
        for role, text in zip(("user", "assistant") * len(texts), texts, strict=False)
    ]


@pytest.mark.parametrize(
    "row",
    [
        pytest.param({"text": "  Mail\u00a0<b>a@b.org</b>  fuck "}, id="plain text"),
        pytest.param(chat("\x00 <p>4111 1111 1111 1111", "https://x.org aaa aaa"), id="a chat"),
    ],
)
def test_nothing_is_changed_or_dropped_unless_asked_for(row: Any) -> None:
    assert cleaned([row, chat("x", "y")])[0] == [row, chat("x", "y")]


@pytest.mark.parametrize(
    ("row", "after"),
    [
        pytest.param({"text": "me@b.org"}, {"text": "[EMAIL]"}, id="plain text"),
        pytest.param(
            [
                {"role": "system", "content": "Ask me@b.org"},
                {"role": "assistant", "content": "me@b.org", "weight": 0},
            ],
            [
                {"role": "system", "content": "Ask [EMAIL]"},
                {"role": "assistant", "content": "[EMAIL]", "weight": 0},
            ],
            id="a conversation, system message too",
        ),
        pytest.param(
            {"messages": chat("me@b.org"), "chosen": "me@b.org", "rejected": chat("x", "me@b.org")},
            {"messages": chat("[EMAIL]"), "chosen": "[EMAIL]", "rejected": chat("x", "[EMAIL]")},
            id="a preference, answers as text or messages",
        ),
    ],
)
def test_texts_are_found_in_rows_of_all_forms(row: Any, after: Any) -> None:
    rows, tally = cleaned([row], pii="Mask")
    assert rows == [after]
    assert tally.masked_pieces()[0].kind == "EMAIL"


@pytest.mark.parametrize(
    ("text", "after"),
    [
        pytest.param("<p>One</p><p>Two<br/>three</p>", "One\n\nTwo\nthree", id="blocks and breaks"),
        pytest.param("a <b>bold</b> <a href='x'>link</a>", "a bold link", id="inline tags"),
        pytest.param("x<script>if (a<b) {}</script>y<!-- no -->", "xy", id="script and comment"),
        pytest.param("Tom &amp; Jerry &lt;3 &#8364;5", "Tom & Jerry <3 €5", id="entities"),
        pytest.param(CODE, CODE, id="no tags"),
        pytest.param("AT&T; R&D", "AT&T; R&D", id="an ampersand"),
        pytest.param("<table><tr><td>1</td><td>2</td></tr></table>", "1  2", id="cells"),
    ],
)  # fmt: skip
def test_html_becomes_text(text: str, after: str) -> None:
    assert repair.without_html(text).strip() == after


@pytest.mark.parametrize(
    "text", ["<script>" * 20_000, "<!--" * 20_000, "<p " * 20_000, "&a" * 20_000, " \t" * 20_000]
)
def test_repairs_take_linear_time(text: str) -> None:
    # Of this process: how busy the machine is does not count.
    began = time.process_time()
    repair.evenly_spaced(repair.without_html(text))
    assert time.process_time() - began < 5


def test_wrong_decoding_is_undone_and_quotes_stay() -> None:
    assert repair.repaired("schÃ¶n â€” “so” ﬁne") == "schön — “so” ﬁne"
    assert repair.repaired("cafe\u0301\x07") == "café"
    assert repair.composed("cafe\u0301") == "café"


def test_white_space_is_evened_but_for_indentation() -> None:
    text = "  a\u00a0 b\t\tc \r\n    indented  x\r\n\r\n\r\n\r\nend\u200b \n"
    assert repair.evenly_spaced(text) == "a b c\n    indented x\n\nend"


def test_masking_with_all_kinds() -> None:
    found: Counter[Kind] = Counter()
    text = (
        "See https://x.org/a?b=1, write to a.b+c@mail.example.org or call +49 30 901820 or"
        " (415) 555-2671; card 4111 1111 1111 1111 12/27, IBAN de89 3704 0044 0532 0130 00 please,"
        " SSN 536-22-1234 from 192.168.7.20 or fe80::1ff:fe23:4567:890a."
    )
    masker = Masker(dict.fromkeys(Kind, TextPolicy.MASK))
    assert masker.mask(text, found) == (
        "See [URL], write to [EMAIL] or call [PHONE] or [PHONE]; card [CREDIT_CARD] 12/27, IBAN"
        " [IBAN] please, SSN [SSN] from [IP] or [IP]."
    )
    assert found == Counter(dict.fromkeys(Kind, 1) | {Kind.PHONE: 2, Kind.IP: 2})


@pytest.mark.parametrize(
    "text",
    [
        "Order 4111 1111 1111 1112 of 2024-10-12 at 12:30:45, 3.14159, 1,234,567.89",
        "Version 10.0.19041.1 on 127.0.0.1 uses std::vector and a::b, ISBN 978-3-16-148410-0",
        "DE89 3704 0044 0532 0130 01 and 000-12-3456, twitter @name, pi ~ 22/7, +1 and +20 points",
    ],
)
def test_numbers_that_are_no_personal_data_stay(text: str) -> None:
    assert Masker(dict.fromkeys(Kind, TextPolicy.MASK)).mask(text, Counter()) == text


def test_removing_takes_the_space_before_along() -> None:
    rows, tally = cleaned([{"text": "Look at https://x.org (really)."}], urls="Remove")
    assert rows == [{"text": "Look at (really)."}]
    assert (tally.masked_pieces()[0].kind, tally.masked_pieces()[0].pieces) == ("URL", 1)


def test_emails_and_phones_may_differ_from_other_personal_data() -> None:
    text = "a@b.org, +49 30 901820, 536-22-1234"
    rows, _ = cleaned([{"text": text}], pii="Mask", emails="Keep", phones="Remove")
    assert rows == [{"text": "a@b.org,, [SSN]"}]


@pytest.mark.parametrize(
    ("row", "clean", "reason"),
    [
        pytest.param({"text": "at https://x.org"}, {"urls": "Drop"}, "Url", id="an address"),
        pytest.param({"text": "a@b.org"}, {"emails": "Drop"}, "Email", id="a mail address"),
        pytest.param({"text": "+49 30 901820"}, {"phones": "Drop"}, "Phone", id="a phone"),
        pytest.param({"text": "536-22-1234"}, {"pii": "Drop"}, "PersonalData", id="an SSN"),
        pytest.param(chat("a@b.org", "x"), {"pii": "Remove"}, "Emptied", id="nothing is left"),
        pytest.param({"text": "abcd"}, {"minCharacters": 5}, "TooFewCharacters", id="short"),
        pytest.param(chat("abc", "def"), {"maxCharacters": 5}, "TooManyCharacters", id="long"),
        pytest.param({"text": GERMAN}, {"language": ["en"]}, "OtherLanguage", id="German"),
        pytest.param(chat("Hi", "fuck you"), {"profanity": "Drop"}, "Profanity", id="a swear word"),
        pytest.param({"text": "Buy it! " * 20}, {"repetition": "Drop"}, "Repetition", id="loop"),
        pytest.param({"text": "### $$$ 1234"}, {"minQuality": "0.5"}, "LowQuality", id="noise"),
    ],
)  # fmt: skip
def test_a_dropped_row_is_counted_with_its_reason(row: Any, clean: Any, reason: str) -> None:
    rows, tally = cleaned([row, {"text": ENGLISH[:5]}, {"text": ENGLISH}], **clean)
    assert row not in rows
    assert {"text": ENGLISH} in rows or reason == "TooManyCharacters"
    assert tally.dropped()[0].reason == reason
    sample = tally.samples[0]
    assert (sample.reason, sample.file, sample.line) == (reason, "f", 1)
    assert tally.cleaned >= 1 and tally.duplicates == 0


def test_samples_are_few_short_and_masked() -> None:
    values = [{"text": f"{n} a@b.org {'x' * 5000}"} for n in range(50)]
    _, tally = cleaned(values, emails="Drop")
    assert tally.dropped()[0].rows == 50
    assert len(tally.samples) == 5
    assert all(len(sample.text) <= 200 for sample in tally.samples)
    assert "[EMAIL]" in tally.samples[0].text and "@" not in tally.samples[0].text


def test_rows_are_compared_after_they_were_cleaned() -> None:
    values = [{"text": "write to a@b.org"}, {"text": "write  to c@d.org"}]
    rows, tally = cleaned(values, pii="Mask", whitespace="Normalize")
    assert rows == [{"text": "write to [EMAIL]"}]
    assert tally.duplicates == 1
    assert len(cleaned(values[:1] * 2, deduplicate="Off")[0]) == 2


def test_swear_words_are_whole_words_of_the_languages_asked_for() -> None:
    rows, tally = cleaned([chat("Fuck, Scunthorpe's cocktail class", "ok")], profanity="Mask")
    assert rows == [chat("[PROFANITY], Scunthorpe's cocktail class", "ok")]
    assert tally.masked_pieces()[0].pieces == 1
    assert ProfanityFilter(["de"]).find("so ein arschloch")
    assert not ProfanityFilter(["en"]).find("so ein arschloch")


def test_texts_too_short_to_tell_are_in_every_language() -> None:
    wanted = LanguageFilter(["en"])
    assert wanted.refuses(GERMAN)
    assert not wanted.refuses(ENGLISH)
    assert not wanted.refuses("Danke!")
    with pytest.raises(UserError, match=r"names xx. Known are .*en"):
        LanguageFilter(["en", "xx"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(ENGLISH + " " + GERMAN, False, id="ordinary text"),
        pytest.param("ha " * 15, False, id="under twenty words"),
        pytest.param("ha " * 30, True, id="one word over and over"),
        pytest.param("\n".join([*"abcdefghijklmnopqrst", *["one line"] * 19]), True, id="lines"),
        pytest.param(f"{ENGLISH} {GERMAN} {ENGLISH}", True, id="a sentence twice"),
        pytest.param(" ".join(f"step {n}: do this{n}" for n in range(12)), False, id="a list"),
    ],
)  # fmt: skip
def test_repetition(text: str, expected: bool) -> None:
    assert is_repetitive(text) is expected


def test_quality_of_text_noise_and_nothing() -> None:
    assert quality(ENGLISH) == quality("水壶坏了 我想退货") == 1.0
    assert quality("") == quality("...") == 0.0
    # 8 of 16 visible characters, 1 of 2 words: 0.5 / 0.7 * 0.5 / 0.6
    assert quality("abcd---- 1234////") == pytest.approx(0.5 / 0.7 * 0.5 / 0.6)
    assert quality("STOP SHOUTING") == pytest.approx(0.3)
    assert quality("# one two") == pytest.approx(0.3 * min(1, 6 / 7 / 0.7))
