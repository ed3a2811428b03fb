"""What preparation found in the data: rows, tokens, what cleaning dropped and masked.

Counted by the trainer's prepare stage; part of its result, of the report and of a FineTuneJob's
status.
"""

from typing import Annotated

from pydantic import Field

from tunesmith_api.meta import Count, ShortText, Status


class RowCounts(Status):
    """Rows by what became of them."""

    read: Count = 0
    """Rows in the source."""
    malformed: Count = 0
    """Rows that could not be read."""
    duplicates: Count = 0
    """Rows dropped as repeated, or as repeating a held-out row."""
    cleaned: Count = 0
    """Rows dropped by other rules of dataset.clean."""
    filtered: Count = 0
    """Rows left out because of their feedback, see dataset.feedback."""
    unsupervised: Count = 0
    """Rows left out because no token of theirs would have been trained on."""
    too_long: Count = 0
    """Rows dropped or cut because of their length."""
    train: Count = 0
    """Rows trained on."""
    synthetic: Count = 0
    """Rows that dataset.synthetic added to those trained on."""
    validation: Count = 0
    """Rows that early stopping looks at."""
    test: Count = 0
    """Rows the gates are judged on."""


class TokenCounts(Status):
    """Tokens of the training rows."""

    train: Count = 0
    """Tokens of the training rows."""
    supervised: Count = 0
    """Those of them that the loss is taken on."""
    longest: Count = 0
    """Tokens of the longest row."""


class SourceStatus(Status):
    """What was found in one source of training rows."""

    uri: ShortText
    """Where it is, shortened."""
    format: ShortText = ""
    """Shape of its rows, as found or as asked for."""
    rows: Count = 0
    """Rows that stayed after cleaning, before any were held out or dropped as repeated."""
    weight: ShortText = "1"
    """How often they are taken."""


class DroppedRows(Status):
    """Rows that cleaning dropped for one reason."""

    reason: ShortText
    """One CamelCase word; docs/cleaning.md lists them."""
    rows: Count
    """How many."""


class MaskedPieces(Status):
    """Pieces of text of one kind that were masked or removed."""

    kind: ShortText
    """Such as EMAIL; docs/cleaning.md lists them."""
    pieces: Count
    """How many."""


class DataStatus(Status):
    """What preparation found."""

    format: ShortText = ""
    """Shape of the training rows; several where the sources differ."""
    sources: Annotated[tuple[SourceStatus, ...], Field(max_length=17)] = ()
    """What was found in each source of training rows; a generator's rows have format Synthetic."""
    template: ShortText = ""
    """Chat template that is used; Plain where the model has none of its own."""
    template_date: ShortText = ""
    """Day that all rows show, YYYY-MM-DD, where the chat template shows the present one; else
    empty. Serving shows the real one."""
    prompt_version: ShortText = ""
    """Version of dataset.prompt; a digest where it has none, empty without a prompt."""
    rows: RowCounts = Field(default_factory=RowCounts)
    """Rows by what became of them."""
    tokens: TokenCounts = Field(default_factory=TokenCounts)
    """Tokens of the training rows."""
    dropped: Annotated[tuple[DroppedRows, ...], Field(max_length=24)] = ()
    """Rows that cleaning dropped, by reason."""
    masked: Annotated[tuple[MaskedPieces, ...], Field(max_length=16)] = ()
    """What was masked or removed, by kind."""
