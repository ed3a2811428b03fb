"""Takes personal data out of text: a piece of each kind is replaced by the kind's name.

E-mail addresses, IBANs (checksum), card numbers (Luhn), IP addresses, telephone numbers. Rather
too much than too little. Every pattern is linear in the length of the text. Names and addresses of
people stay: no pattern finds them. Pure; called by ``lines``.
"""

import ipaddress
import re
from collections.abc import Callable

_EMAIL = re.compile(r"(?<![\w.%+-])[\w.%+-]+@[\w-]+(?:\.[\w-]+)+")

# Length of an IBAN by country, from the registry of SWIFT (ISO 13616).
_IBAN_LENGTHS = {
    15: "NO",
    16: "BE",
    18: "DK FI FO GL NL",
    19: "MK SI",
    20: "AT BA EE KZ LT LU XK",
    21: "CH HR LI LV",
    22: "BG BH CR DE GB GE IE ME RS VA",
    23: "AE GI IL IQ TL",
    24: "AD CZ ES MD PK RO SA SE SK TN VG",
    25: "LY PT ST",
    26: "IS TR",
    27: "FR GR IT MC MR SM",
    28: "AL AZ BY CY DO GT HU LB PL SV",
    29: "BR EG PS QA UA",
    30: "JO KW MU",
    31: "MT SC",
    32: "LC",
}
_IBAN = re.compile(
    r"\b(?:"
    + "|".join(
        rf"(?:{countries.replace(' ', '|')})\d\d(?:[ -]?[A-Z0-9]){{{length - 4}}}"
        for length, countries in _IBAN_LENGTHS.items()
    )
    + r")\b",
    re.IGNORECASE,
)
_CARD_LENGTHS = frozenset({13, 14, 15, 16, 19})
_DIGITS = re.compile(r"(?<!\d)\d(?:[ -]?\d){12,}")
_GROUP = re.compile(r"\d+")
_IPV4 = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?!\.?\w)")
_IPV6 = re.compile(
    r"(?<![\w:.])(?:[0-9A-Fa-f]{0,4}:){2,8}(?:(?:\d{1,3}\.){3}\d{1,3}|[0-9A-Fa-f]{0,4})(?![\w:])"
)
_PHONE = re.compile(r"(?<![\w+.])(?:\+|\()?\d[\d ()./-]{5,22}\d(?!\w)")
_NORTH_AMERICAN = re.compile(r"(?:1[ .-]?)?\(?\d{3}\)?[ .-]{1,2}\d{3}[ .-]\d{4}")


def mask(text: str) -> str:
    """Return the text with [EMAIL], [IBAN], [CARD], [IP] and [PHONE] in place of such data."""
    text = _EMAIL.sub("[EMAIL]", text)
    text = _IBAN.sub(_replace("[IBAN]", _is_iban), text)
    text = _DIGITS.sub(_mask_cards, text)
    text = _IPV4.sub(_replace("[IP]", _is_address), text)
    text = _IPV6.sub(_replace("[IP]", _is_address), text)
    return _PHONE.sub(_replace("[PHONE]", _is_phone), text)


def _replace(kind: str, check: Callable[[str], bool]) -> Callable[[re.Match[str]], str]:
    return lambda match: kind if check(match[0]) else match[0]


def _is_iban(text: str) -> bool:
    compact = re.sub(r"[ -]", "", text).upper()
    digits = "".join(str(int(letter, 36)) for letter in compact[4:] + compact[:4])
    return int(digits) % 97 == 1


def _mask_cards(match: re.Match[str]) -> str:
    """Mask each stretch of whole groups of digits that is a card number.

    Other numbers may stand right before and behind it, as an expiry date does.
    """
    text = match[0]
    groups = list(_GROUP.finditer(text))
    kept, position, first = [], 0, 0
    while first < len(groups):
        last = _last_group_of_card(groups, first)
        if last is None:
            first += 1
            continue
        kept += [text[position : groups[first].start()], "[CARD]"]
        position = groups[last].end()
        first = last + 1
    return "".join(kept) + text[position:]


def _last_group_of_card(groups: list[re.Match[str]], first: int) -> int | None:
    digits = ""
    found = None
    for last in range(first, len(groups)):
        digits += groups[last][0]
        if len(digits) > 19:
            break
        if len(digits) in _CARD_LENGTHS and _is_card(digits):
            found = last
    return found


def _is_card(digits: str) -> bool:
    if digits[0] not in "23456":
        return False
    doubled = (int(digit) * 2 for digit in digits[-2::-2])
    total = sum(map(int, digits[-1::-2])) + sum(n - 9 if n > 9 else n for n in doubled)
    return total % 10 == 0


def _is_address(text: str) -> bool:
    if not text.strip(":"):
        return False
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _is_phone(text: str) -> bool:
    count = sum(letter.isdigit() for letter in text)
    if not 7 <= count <= 15:
        return False
    if text.startswith(("+", "00")):
        return True
    # Without a prefix of its country only the usual shapes, or every date would be a number.
    return (text.lstrip("(").startswith("0") and count >= 9) or bool(
        _NORTH_AMERICAN.fullmatch(text)
    )
