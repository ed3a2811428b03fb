"""The data a run learns from: where it is, what its rows look like, what is done to them.

A section of `training`; kept apart because most of what people set is here.
"""

from enum import StrEnum
from typing import Annotated

from pydantic import ConfigDict, Field

from tunesmith_api.cleaning import CLEAN_RULE, Clean
from tunesmith_api.meta import (
    DataUri,
    DecimalText,
    Rule,
    SecretRef,
    ShortText,
    Spec,
    cel,
    exactly_one,
    section,
)


class DataFormat(StrEnum):
    """Shape of a row."""

    AUTO = "Auto"
    MESSAGES = "Messages"
    PROMPT_RESPONSE = "PromptResponse"
    USER_BOT = "UserBot"


class Template(StrEnum):
    """How a conversation becomes text."""

    CHAT_TEMPLATE = "ChatTemplate"
    CHAT_ML = "ChatML"


class TooLong(StrEnum):
    """What happens to a row that has more tokens than maxSequenceLength."""

    FAIL = "Fail"
    DROP = "Drop"
    TRUNCATE = "Truncate"


class Overlap(StrEnum):
    """What happens to a training row that equals or nearly equals a held-out one."""

    DROP = "Drop"
    FAIL = "Fail"


class Source(Spec):
    """A file or a prefix."""

    uri: DataUri
    """s3://BUCKET/KEY, s3://BUCKET/PREFIX/ (all .jsonl and .json files below it, in the order of
    their names) or pvc://CLAIM/PATH."""


class Split(Spec):
    """Where held-out rows come from. Exactly one member is set."""

    model_config = ConfigDict(json_schema_extra=cel(exactly_one("percent", "uri")))

    percent: DecimalText | None = Field(
        default=None,
        json_schema_extra=cel(
            Rule("double(self) >= 0.0 && double(self) <= 50.0", "must be between 0 and 50")
        ),
    )
    """Share of the training rows, in percent, that is set aside. Rows that are
    clean.similarity or more alike stay on one side."""
    uri: DataUri | None = None
    """A file or prefix of its own."""


class Columns(Spec):
    """Names of the fields of a PromptResponse row."""

    prompt: ShortText = "prompt"
    """Field with the prompt."""
    response: ShortText = "response"
    """Field with the response, the only text that is trained on."""


class Checks(Spec):
    """When the data is refused."""

    min_rows: Annotated[int, Field(ge=1, le=100_000_000)] = 1
    """Fewest rows, after cleaning, that may be trained on."""
    max_rows: Annotated[int, Field(ge=1, le=100_000_000)] = 2_000_000
    """Most rows that are read; more is refused."""
    fail_on_malformed: DecimalText = Field(
        default="0",
        json_schema_extra=cel(
            Rule("double(self) >= 0.0 && double(self) <= 1.0", "must be between 0 and 1")
        ),
    )
    """Share of unreadable rows, from 0 to 1, above which the data is refused. 0 refuses at the
    first one."""
    too_long: TooLong = TooLong.FAIL
    """What happens to a row with more than hyperparameters.maxSequenceLength tokens."""
    on_overlap: Overlap = Overlap.DROP
    """What happens to training rows that are clean.similarity or more alike to a row of test.uri
    or validation.uri: Drop leaves them out and counts them, Fail refuses the data."""


_CHECKS_RULE = Rule("self.minRows <= self.maxRows", "minRows must not be above maxRows")


class Dataset(Spec):
    """The conversations to learn from."""

    train: Source
    """Training data: JSON lines {"prompt", "response"}, a JSON list of {"user", "bot"}, or OpenAI
    messages {"messages": [{"role", "content"}]}."""
    validation: Split = Field(
        default_factory=lambda: Split(percent="0"), json_schema_extra={"default": {"percent": "0"}}
    )
    """Rows that early stopping looks at."""
    test: Split = Field(
        default_factory=lambda: Split(percent="10"),
        json_schema_extra={"default": {"percent": "10"}},
    )
    """Held-out rows: the gates are judged on them. They are never trained on."""
    format: DataFormat = DataFormat.AUTO
    """Shape of the rows; Auto looks at the first one and says what it found."""
    columns: Columns = Field(default_factory=Columns, json_schema_extra=section())
    """Field names of PromptResponse rows."""
    template: Template = Template.CHAT_TEMPLATE
    """The model's own chat template, or ChatML for a model without one."""
    clean: Clean = Field(default_factory=Clean, json_schema_extra=section(**cel(CLEAN_RULE)))
    """What is done to the rows before they are split. docs/cleaning.md has the details."""
    checks: Checks = Field(default_factory=Checks, json_schema_extra=section(**cel(_CHECKS_RULE)))
    """When the data is refused."""
    secret_ref: SecretRef | None = None
    """S3 credentials for the data. Default: spec.s3.secretRef."""
