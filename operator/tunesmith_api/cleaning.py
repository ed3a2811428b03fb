"""What is done to the rows of a data set before they are split: repaired, masked, dropped.

The section `dataset.clean`. Nothing is on unless asked for, but dropping exact duplicates.
"""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from tunesmith_api.meta import DecimalText, Rule, Spec, cel


class Deduplication(StrEnum):
    """Which repeated rows are dropped."""

    EXACT = "Exact"
    NEAR = "Near"
    OFF = "Off"


class Unicode(StrEnum):
    """What is done to characters."""

    KEEP = "Keep"
    NORMALIZE = "Normalize"
    REPAIR = "Repair"


class Whitespace(StrEnum):
    """What is done to spaces and line ends."""

    KEEP = "Keep"
    NORMALIZE = "Normalize"


class Html(StrEnum):
    """What is done to HTML tags."""

    KEEP = "Keep"
    REMOVE = "Remove"


class TextPolicy(StrEnum):
    """What is done to a piece of text of some kind."""

    KEEP = "Keep"
    MASK = "Mask"
    REMOVE = "Remove"
    DROP = "Drop"


class Profanity(StrEnum):
    """What is done to swear words."""

    KEEP = "Keep"
    MASK = "Mask"
    DROP = "Drop"


class Repetition(StrEnum):
    """What is done to rows that repeat themselves."""

    KEEP = "Keep"
    DROP = "Drop"


Language = Annotated[str, Field(max_length=3, pattern=r"^[a-z]{2,3}$")]

CLEAN_RULE = Rule(
    "self.maxCharacters == 0 || self.minCharacters <= self.maxCharacters",
    "minCharacters must not be above maxCharacters",
)


class Clean(Spec):
    """What is done to the rows before the split."""

    html: Html = Html.KEEP
    """Remove takes HTML tags out and turns entities into characters; what only looks like a tag,
    such as List<T>, stays."""
    unicode: Unicode = Unicode.KEEP
    """Normalize composes characters (NFC); Repair mends text that was decoded in a wrong encoding,
    control characters and the like, too."""
    whitespace: Whitespace = Whitespace.KEEP
    """Normalize makes line ends one way, runs of spaces one space (the indentation of a line
    stays), more than one empty line one, and trims texts."""
    urls: TextPolicy = TextPolicy.KEEP
    """What is done to web addresses: Mask puts [URL] in their place, Remove takes them out, Drop
    drops the row."""
    emails: TextPolicy | None = None
    """The same for e-mail addresses, [EMAIL]. Default: as pii."""
    phones: TextPolicy | None = None
    """The same for telephone numbers, [PHONE]. Default: as pii."""
    pii: TextPolicy = TextPolicy.KEEP
    """The same for other personal data: [CREDIT_CARD] and [IBAN] (with their checksums), [IP],
    [SSN]. Names and addresses of people are not found."""
    min_characters: Annotated[int, Field(ge=0, le=10_000_000)] = 0
    """Fewest characters of a row, over all its texts; shorter ones are dropped."""
    max_characters: Annotated[int, Field(ge=0, le=10_000_000)] = 0
    """Most characters of a row, over all its texts; longer ones are dropped. 0: no limit."""
    language: Annotated[tuple[Language, ...], Field(max_length=16)] = ()
    """Codes (ISO 639) of the languages that stay, such as en; rows in others are dropped, but for
    rows too short to tell. Default: all."""
    profanity: Profanity = Profanity.KEEP
    """What is done to rows with words of a list of swear words, in the languages above or English:
    Mask puts [PROFANITY] in their place, Drop drops the row."""
    repetition: Repetition = Repetition.KEEP
    """Drop drops rows that repeat lines or phrases more than the rules of Gopher allow."""
    min_quality: DecimalText = Field(
        default="0",
        json_schema_extra=cel(
            Rule("double(self) >= 0.0 && double(self) <= 1.0", "must be between 0 and 1")
        ),
    )
    """Lowest quality score, from 0 to 1, of a row that stays; docs/cleaning.md has the formula."""
    deduplicate: Deduplication = Deduplication.EXACT
    """Which rows are dropped because an earlier one says the same: Exact, equal ones; Near, also
    those that are similarity or more alike to a row that stays."""
    similarity: DecimalText = Field(
        default="0.85",
        json_schema_extra=cel(
            Rule("double(self) >= 0.7 && double(self) <= 1.0", "must be between 0.7 and 1")
        ),
    )
    """How alike two rows are from which on they are near duplicates: the share of their runs of
    three words that both have (Jaccard), without system messages. Near duplicates are never on two
    sides of a split, whatever is dropped. 1: only rows of the same words."""
