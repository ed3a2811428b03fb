"""The data a run learns from: where it is, what its rows look like, what is done to them.

A section of `training`; kept apart because most of what people set is here. How rows become text
is `templating`'s.
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
from tunesmith_api.synthetic import Synthetic
from tunesmith_api.templating import (
    ADDED_RULE,
    CUSTOM_RULE,
    JinjaText,
    Prompt,
    Template,
    TokenTexts,
)


class DataFormat(StrEnum):
    """Shape of a row; docs/data.md has an example of each."""

    AUTO = "Auto"
    MESSAGES = "Messages"
    PROMPT_RESPONSE = "PromptResponse"
    USER_BOT = "UserBot"
    ALPACA = "Alpaca"
    SHARE_GPT = "ShareGPT"
    CHAT_LOG = "ChatLog"
    EMAIL_THREAD = "EmailThread"
    CONVERSATIONS = "Conversations"
    INTENT = "Intent"
    PREFERENCE = "Preference"
    TEXT = "Text"


class FeedbackFilter(StrEnum):
    """Which rows of a conversation log are taken."""

    ANY = "Any"
    POSITIVE = "Positive"
    NOT_NEGATIVE = "NotNegative"


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
    """One of several places that the training rows come from."""

    uri: DataUri
    """A file or a folder, as dataset.train.uri."""
    format: DataFormat | None = None
    """Shape of its rows. Default: dataset.format."""
    weight: DecimalText = Field(
        default="1",
        json_schema_extra=cel(
            Rule("double(self) > 0.0 && double(self) <= 100.0", "must be above 0 and at most 100")
        ),
    )
    """How often a training row of this source is taken in an epoch: 1 once, 2 twice, 0.5 every
    second row, 1.5 all of them once and every second one twice. Which rows that are is decided by
    the seed. Held-out rows are set aside before and are never repeated."""


class Training(Spec):
    """Where the training rows come from. Exactly one member is set."""

    model_config = ConfigDict(json_schema_extra=cel(exactly_one("uri", "sources")))

    uri: DataUri | None = None
    """s3://BUCKET/KEY, s3://BUCKET/PREFIX/ (all data files below it, in the order of their names),
    pvc://CLAIM/PATH, or hf://datasets/ORGANIZATION/NAME, with @REVISION and /PATH where wanted.
    Files are .jsonl, .json, .csv, .parquet or .txt, each also .gz or .zst."""
    sources: Annotated[tuple[Source, ...], Field(min_length=1, max_length=16)] | None = Field(
        default=None, json_schema_extra={"x-kubernetes-list-type": "atomic"}
    )
    """Several places, mixed by their weights."""

    @property
    def all_sources(self) -> tuple[Source, ...]:
        """The sources, also where only a URI is given."""
        if self.sources is not None:
            return self.sources
        return (Source(uri=self.uri),) if self.uri is not None else ()


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
    """Names of the fields of a row, where they are called otherwise."""

    prompt: ShortText = "prompt"
    """PromptResponse, Preference: field with the prompt."""
    response: ShortText = "response"
    """PromptResponse: field with the response, the only text that is trained on."""
    messages: ShortText = "messages"
    """Messages, Conversations: field with the list of messages."""
    instruction: ShortText = "instruction"
    """Alpaca: field with the instruction."""
    input: ShortText = "input"
    """Alpaca: field with further input, which may be empty or absent."""
    output: ShortText = "output"
    """Alpaca: field with the answer."""
    conversations: ShortText = "conversations"
    """ShareGPT: field with the list of turns {"from", "value"}."""
    query: ShortText = "query"
    """Intent: field with what was said. Where it is absent, the field of columns.text is read."""
    intent: ShortText = "intent"
    """Intent: field with the name of the intent."""
    entities: ShortText = "entities"
    """Intent: field with the entities, which may be absent."""
    chosen: ShortText = "chosen"
    """Preference: field with the better answer."""
    rejected: ShortText = "rejected"
    """Preference: field with the worse answer."""
    text: ShortText = "text"
    """Text, ChatLog, EmailThread: field with the text, in files that have fields."""


SpeakerNames = Annotated[tuple[ShortText, ...], Field(min_length=1, max_length=32)]


class Speakers(Spec):
    """Who is who in a ChatLog. Upper and lower case are the same."""

    user: SpeakerNames = ("User", "Human", "Customer", "Client", "Question", "Q")
    """Names of those who ask."""
    assistant: SpeakerNames = ("Assistant", "Bot", "AI", "Agent", "Support", "Answer", "A")
    """Names of those who answer; only their text is trained on."""


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


_HELD_OUT = " + ".join(
    f"(has(self.{name}.percent) ? double(self.{name}.percent) : 0.0)"
    for name in ("validation", "test")
)
_SPLIT_RULE = Rule(
    f"{_HELD_OUT} < 100.0",
    "validation and test take all rows and leave none to train on: lower their percent (test has"
    " 10 where it is not set)",
)
_CHECKS_RULE = Rule("self.minRows <= self.maxRows", "minRows must not be above maxRows")


class Dataset(Spec):
    """The conversations to learn from."""

    model_config = ConfigDict(json_schema_extra=cel(CUSTOM_RULE, ADDED_RULE, _SPLIT_RULE))

    train: Training
    """Training data: a uri, or several sources."""
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
    """Shape of the rows; Auto looks at the first one of each source and says what it found."""
    columns: Columns = Field(default_factory=Columns, json_schema_extra=section())
    """Names of the fields of a row."""
    speakers: Speakers = Field(default_factory=Speakers, json_schema_extra=section())
    """Who is who in a ChatLog."""
    feedback: FeedbackFilter = FeedbackFilter.ANY
    """Which rows of a ModelDeployment's conversation log are taken: Any, Positive for those rated
    good, NotNegative for those not rated bad, by the last rating. Other rows are counted as
    filtered."""
    template: Template = Template.CHAT_TEMPLATE
    """How a conversation becomes text: the model's own chat template, ChatML, Alpaca, Instruction,
    Plain (User: and Assistant:), or Custom. A model without one gets Plain. The template is saved
    with the model."""
    custom_template: JinjaText | None = None
    """With template Custom: a chat template in Jinja, as transformers takes it: it is given
    messages, add_generation_prompt, bos_token and eos_token, and runs in a sandbox. It should end
    an answer with eos_token, or the model never learns to stop."""
    add_tokens: TokenTexts = Field(default=(), json_schema_extra={"x-kubernetes-list-type": "set"})
    """Texts that become tokens of their own, wherever they stand in a text: names, codes, tags that
    the model's tokenizer would take to pieces. They are shown in answers. Their embeddings begin as
    the mean of those of the pieces and are trained, with LoRA as well; all others stay as they are
    there. A text that is one token already is not added again. docs/data.md has more."""
    add_special_tokens: TokenTexts = Field(
        default=(), json_schema_extra={"x-kubernetes-list-type": "set"}
    )
    """The same for marks that are no text, such as those that a template puts around turns: they
    are left out of answers that are shown."""
    prompt: Prompt = Field(default_factory=Prompt, json_schema_extra=section())
    """What is put around the questions of all rows."""
    clean: Clean = Field(default_factory=Clean, json_schema_extra=section(**cel(CLEAN_RULE)))
    """What is done to the rows before they are split. docs/cleaning.md has the details."""
    checks: Checks = Field(default_factory=Checks, json_schema_extra=section(**cel(_CHECKS_RULE)))
    """When the data is refused."""
    synthetic: Synthetic | None = None
    """Further training rows that a model writes. Absent: none."""
    secret_ref: SecretRef | None = None
    """S3 credentials for the data. Default: spec.s3.secretRef."""
