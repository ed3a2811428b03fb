"""Personal data that must not reach the log, and text that must."""

import time

import pytest

from tunesmith_sidecar.conversations.masking import mask


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("write to jane.doe+x@mail.example.co.uk.", "write to [EMAIL]."),
        ("müller@bücher.example", "[EMAIL]"),
        ("call +49 (0)30 1234-567 now", "call [PHONE] now"),
        ("call (555) 123-4567 or 1-555-123-4567", "call [PHONE] or [PHONE]"),
        ("0171 1234567 and 0043 1 234567", "[PHONE] and [PHONE]"),
        ("card 4111 1111 1111 1111 12/27, CVC 123", "card [CARD] 12/27, CVC 123"),
        ("5500-0000-0000-0004 378282246310005", "[CARD] [CARD]"),
        ("4111111111111111", "[CARD]"),
        ("1 4111 1111 1111 1111 22", "1 [CARD] 22"),
        ("IBAN DE89 3704 0044 0532 0130 00 and then", "IBAN [IBAN] and then"),
        ("gb82west12345698765432", "[IBAN]"),
        ("from 192.168.0.12, then 2001:db8::1 or ::1.", "from [IP], then [IP] or [IP]."),
        ("fe80:0:0:0:1:2:3:4", "[IP]"),
    ],
)
def test_masked(text: str, masked: str) -> None:
    assert mask(text) == masked


@pytest.mark.parametrize(
    "text",
    [
        "order 4111 1111 1111 1112 of 2024-01-15 12:30:45",
        "DE88 3704 0044 0532 0130 00",
        "version 1.2.3, 999.1.1.1 and std::vector<int> a :: b",
        "tickets 1234567 and 12345678, pi is 3.14159265",
        "2024-01-15 to 2024-02-16, 10.000.000 people",
        "@property def a@b",
    ],
)
def test_kept(text: str) -> None:
    assert mask(text) == text


@pytest.mark.parametrize("piece", ["1", "a", "1 ", "a.", "a@", "1:", "+1 (", "DE12 ", "@a."])
def test_no_text_takes_long(piece: str) -> None:
    text = piece * (40_000 // len(piece))
    began = time.process_time()
    mask(text)
    assert time.process_time() - began < 1.0
