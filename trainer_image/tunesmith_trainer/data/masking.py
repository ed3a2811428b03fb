"""Finds web addresses and personal data in text, and puts the name of their kind in their place.

By patterns that are linear in the length of the text and by checksums where there are any: Luhn for
cards (ISO 7812), mod 97 for IBANs (ISO 13616). Names and addresses of people stay: no pattern finds
them. Pure; called by ``cleaning``.
"""

import ipaddress
import re
from collections import Counter
from collections.abc import Callable
from enum import StrEnum
from functools import partial

import phonenumbers
from stdnum import iban, luhn
from stdnum.us import ssn

from tunesmith_api.cleaning import TextPolicy
from tunesmith_trainer.data.tally import Reason


class Kind(StrEnum):
    """What a piece of text is."""

    URL = "URL"
    EMAIL = "EMAIL"
    IBAN = "IBAN"
    CREDIT_CARD = "CREDIT_CARD"
    SSN = "SSN"
    IP = "IP"
    PHONE = "PHONE"


DROPPED_FOR = {Kind.URL: Reason.URL, Kind.EMAIL: Reason.EMAIL, Kind.PHONE: Reason.PHONE}

_URL = re.compile(r"\b(?:(?:https?|ftp)://|www\.(?=\w))[^\s<>\"'`\\]+", re.IGNORECASE)
_AFTER_URL = ".,;:!?)]}*_"
# The last label has no digits (react@18.2.0), and no path follows (git@host.org:path).
_EMAIL = re.compile(r"(?<![\w.%+-])[\w.%+-]+@(?:[\w-]+\.)+[^\W\d_]{2,}(?![\w-]|:[\w/])")
_IBAN = re.compile(r"\b[A-Z]{2}\d\d(?:[ -]?[A-Z0-9]){11,30}(?![A-Z0-9])", re.IGNORECASE)
_CARD = re.compile(
    r"(?<![\w.,+-])(?:"
    r"[2-6]\d{3}([ -]?)\d{4}\1\d{4}\1\d{4}(?:\1\d{3})?"  # most
    r"|3[47]\d\d([ -]?)\d{6}\2\d{5}"  # American Express
    r"|3[068]\d\d([ -]?)\d{6}\3\d{4}"  # Diners Club
    r")(?![\w-])"
)
_SSN = re.compile(r"(?<![\w.-])\d{3}-\d\d-\d{4}(?![\w-])")
_IPV4 = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?!\.?\w)")
_IPV6 = re.compile(
    r"(?<![\w:.])(?:[0-9A-F]{0,4}:){2,8}(?:(?:\d{1,3}\.){3}\d{1,3}|[0-9A-F]{0,4})(?![\w:])",
    re.IGNORECASE,
)
_PHONE = re.compile(r"(?<![\w+./=#-])(?:\+|\()?\d[\d ()./-]{5,22}\d(?![\w/=])")
_NORTH_AMERICAN = re.compile(r"(?:1[ .-]?)?(?:\(\d{3}\) ?|\d{3}[ .-])\d{3}[ .-]\d{4}")
_NATIONAL = re.compile(r"\(?0\d{1,5}\)?[ ./-]{0,3}\d[\d ./-]+")
_DATE = re.compile(r"\d\d?[./-]\d\d?[./-](?:\d\d){1,2}\b|\d{4}[./-]\d\d?[./-]\d\d?\b")
_DIGITS = re.compile(r"\d\W{0,2}\d")
# A character that no text should have stands for what is taken out, with the space before it.
_TAKEN_OUT = "\ue0f0"
_GAP = re.compile(f" ?{_TAKEN_OUT}")


class Masker:
    """Finds the kinds that are not kept."""

    def __init__(self, policies: dict[Kind, TextPolicy]) -> None:
        self._policies = {
            kind: policies[kind] for kind in Kind if policies[kind] is not TextPolicy.KEEP
        }

    def __bool__(self) -> bool:
        return bool(self._policies)

    def mask(self, text: str, found: Counter[Kind]) -> str:
        """Give the text with the kinds masked or taken out; count them in ``found``.

        Of a kind whose policy is Drop each piece is masked, and what becomes of the row is the
        caller's.
        """
        has_digits = _DIGITS.search(text) is not None or "::" in text
        for kind, policy in self._policies.items():
            if kind not in _WITHOUT_DIGITS and not has_digits:
                continue
            new = _TAKEN_OUT if policy is TextPolicy.REMOVE else f"[{kind.value}]"
            for pattern, piece_of in _FINDERS[kind]:
                text = pattern.sub(partial(_replace, kind, new, piece_of, found), text)
        return _GAP.sub("", text) if _TAKEN_OUT in text else text

    def reason_to_drop(self, found: Counter[Kind]) -> Reason | None:
        """Tell why a row with these pieces is dropped, if it is."""
        for kind in found:
            if self._policies[kind] is TextPolicy.DROP:
                return DROPPED_FOR.get(kind, Reason.PII)
        return None


def _replace(
    kind: Kind,
    new: str,
    piece_of: Callable[[str], str],
    found: Counter[Kind],
    match: re.Match[str],
) -> str:
    piece = piece_of(match[0])
    if not piece:
        return match[0]
    found[kind] += 1
    return match[0].replace(piece, new, 1)


def _whole(text: str) -> str:
    return text


def _url(text: str) -> str:
    stripped = text.rstrip(_AFTER_URL)
    # A bracket within the address, as in Wikipedia's, belongs to it.
    if stripped.count("(") > stripped.count(")") and text[len(stripped) :].startswith(")"):
        stripped += ")"
    return stripped


def _iban(text: str) -> str:
    """Give the stretch from the start that is an IBAN; words behind may look like more of it."""
    for end in range(len(text), 14, -1):
        if (end == len(text) or not text[end].isalnum()) and _is_iban(text[:end]):
            return text[:end]
    return ""


def _is_iban(text: str) -> bool:
    # Length and mod 97; countries' own rules know only the banks of when they were written.
    return bool(iban.is_valid(text, check_country=False))


def _card(text: str) -> str:
    return text if luhn.is_valid(text.replace(" ", "").replace("-", "")) else ""


def _ssn(text: str) -> str:
    return text if ssn.is_valid(text) else ""


def _address(text: str) -> str:
    if not any(letter.isdigit() for letter in text):
        return ""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return ""
    return "" if address.is_loopback or address.is_unspecified else text


def _phone(text: str) -> str:
    if text.startswith(("+", "00")):
        return text if _is_international("+" + text.lstrip("+0")) else ""
    if _DATE.match(text):
        return ""
    digits = sum(letter.isdigit() for letter in text)
    is_national = _NATIONAL.fullmatch(text) and 9 <= digits <= 12
    return text if is_national or _NORTH_AMERICAN.fullmatch(text) else ""


def _is_international(text: str) -> bool:
    try:
        return phonenumbers.is_possible_number(phonenumbers.parse(text, None))
    except phonenumbers.NumberParseException:
        return False


_WITHOUT_DIGITS = (Kind.URL, Kind.EMAIL)
_FINDERS: dict[Kind, tuple[tuple[re.Pattern[str], Callable[[str], str]], ...]] = {
    Kind.URL: ((_URL, _url),),
    Kind.EMAIL: ((_EMAIL, _whole),),
    Kind.IBAN: ((_IBAN, _iban),),
    Kind.CREDIT_CARD: ((_CARD, _card),),
    Kind.SSN: ((_SSN, _ssn),),
    # IPv6 first: an IPv4 address may be its end.
    Kind.IP: ((_IPV6, _address), (_IPV4, _address)),
    Kind.PHONE: ((_PHONE, _phone),),
}
