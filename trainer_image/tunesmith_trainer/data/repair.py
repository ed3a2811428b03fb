"""Repairs a text: HTML to plain text, characters, white space. Each a pure function.

Called by ``cleaning``.
"""

import html
import re
import unicodedata

import ftfy

# Only what is a tag of HTML is taken for one: a parser would eat List<T> and a<b too.
_NAMES = (
    "a|abbr|article|aside|b|blockquote|body|br|button|center|cite|code|dd|del|details|div|dl|dt|em"
    "|figcaption|figure|font|footer|form|h[1-6]|head|header|hr|html|i|iframe|img|input|ins|label|li"
    "|link|main|mark|meta|nav|ol|option|p|pre|q|s|section|select|small|span|strike|strong|sub"
    "|summary|sup|table|tbody|td|textarea|tfoot|th|thead|title|tr|u|ul|video"
)
_TAG = re.compile(rf"</?({_NAMES})(?:[\s/]([^<>]*))?>", re.IGNORECASE)
_INLINE = re.compile(
    r"a|abbr|b|button|cite|code|del|em|font|i|img|input|ins|label|mark|q|s|small|span|strike|strong"
    r"|sub|sup|u",
    re.IGNORECASE,
)
_CELLS = frozenset({"td", "th"})
_UNSEEN = re.compile(r"<(script|style)(?:\s[^<>]*)?>|<!--", re.IGNORECASE)
_UNSEEN_ENDS = {
    "script": re.compile(r"</script[^<>]*>", re.IGNORECASE),
    "style": re.compile(r"</style[^<>]*>", re.IGNORECASE),
    "comment": re.compile(r"-->"),
}
_ENTITY = re.compile(r"&(?:#\d{1,7}|#x[0-9a-f]{1,6}|[a-z][a-z0-9]{1,30});", re.IGNORECASE)
_DOCTYPE = re.compile(r"<!doctype\b[^<>]*>", re.IGNORECASE)

_EMPTY_LINES = re.compile(r"\n{3,}")
_INVISIBLE = re.compile(r"[\u200b\u2060\ufeff\u00ad]")

# As ftfy's default, but for typographic quotes and ligatures: they are no errors.
_REPAIRS = ftfy.TextFixerConfig(
    unescape_html=False, uncurl_quotes=False, fix_latin_ligatures=False, explain=False
)


def without_html(text: str) -> str:
    """Give the text that a browser would show, with blocks on lines of their own."""
    if "<" in text:
        text = _DOCTYPE.sub("", _without_unseen(text))
        text = _TAG.sub(_in_place_of, text)
    return _ENTITY.sub(lambda match: html.unescape(match[0]), text) if "&" in text else text


def composed(text: str) -> str:
    """Give the text in Unicode's normal form C."""
    return unicodedata.normalize("NFC", text)


def repaired(text: str) -> str:
    """Undo decoding in a wrong encoding and the like (ftfy), and compose (NFC)."""
    # ftfy takes a millisecond a row; it has nothing to do where all characters are ASCII.
    if text.isascii() and text.isprintable():
        return text
    return ftfy.fix_text(text, _REPAIRS)


def evenly_spaced(text: str) -> str:
    """Give the text with one kind of line end and of space, none repeated but in an indentation."""
    if not text.isascii():
        text = _INVISIBLE.sub("", text)
    text = "\n".join(map(_evened, text.splitlines()))
    return _EMPTY_LINES.sub("\n\n", text).strip()


def _evened(line: str) -> str:
    body = line.lstrip()
    # A tab stays a tab here; a no-break space in front of a line is no indentation.
    indentation = line[: len(line) - len(body)].replace("\u00a0", " ")
    return indentation + " ".join(body.split()) if body else ""


def _without_unseen(text: str) -> str:
    """Take scripts, styles and comments out, in linear time: one expression would not do that."""
    kept, position = [], 0
    endless: set[str] = set()
    for begin in _UNSEEN.finditer(text):
        kind = (begin[1] or "comment").lower()
        if begin.start() < position or kind in endless:
            continue
        end = _UNSEEN_ENDS[kind].search(text, begin.end())
        if end is None:
            endless.add(kind)
            continue
        kept.append(text[position : begin.start()])
        position = end.end()
    return "".join(kept) + text[position:]


def _in_place_of(match: re.Match[str]) -> str:
    name, attributes = match[1].lower(), (match[2] or "").strip("/ \t\n")
    # As in "a <b and c> d".
    if attributes and "=" not in attributes:
        return match[0]
    if name in _CELLS:
        return " "
    return "" if _INLINE.fullmatch(name) else "\n"
