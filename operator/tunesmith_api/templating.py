"""How conversations become text and tokens: chat templates, what is put around the questions, and
tokens that are added to the tokenizer.

Sections of `dataset`. Pure types; the texts of the templates are the trainer's.
"""

import hashlib
from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, Field

from tunesmith_api.meta import Rule, ShortText, Spec, cel

# All of it together must fit an annotation of the pod: 256 KiB, up to four bytes a character.
JinjaText = Annotated[str, Field(min_length=1, max_length=16_384)]
Passage = Annotated[str, Field(min_length=1, max_length=2048)]

CUSTOM_RULE = Rule(
    "(self.template == 'Custom') == has(self.customTemplate)",
    "template Custom and customTemplate belong together: set both or none",
)


def _is_token(text: str) -> str:
    if text != text.strip() or "\n" in text:
        raise ValueError(_TOKEN_RULE.message)
    return text


def _all_differ(texts: tuple[str, ...]) -> tuple[str, ...]:
    repeated = next((text for text in texts if texts.count(text) > 1), None)
    if repeated is not None:
        raise ValueError(f"Duplicate value: {repeated}")
    return texts


_TOKEN_RULE = Rule(
    r"self.matches('^\\S(.*\\S)?$')",
    "a token must not be white space, nor begin or end with it, nor hold a line break",
)
# Bounded so that the matching in a text stays fast and all fit the pod's annotation.
TokenTexts = Annotated[
    tuple[
        Annotated[
            str,
            Field(min_length=1, max_length=64, json_schema_extra=cel(_TOKEN_RULE)),
            AfterValidator(_is_token),
        ],
        ...,
    ],
    Field(max_length=256),
    AfterValidator(_all_differ),
]
ADDED_RULE = Rule(
    "!self.addTokens.exists(t, t in self.addSpecialTokens)",
    "a token stands in both addTokens and addSpecialTokens: leave it in one",
)


class Template(StrEnum):
    """How a conversation becomes text."""

    CHAT_TEMPLATE = "ChatTemplate"
    CHAT_ML = "ChatML"
    ALPACA = "Alpaca"
    INSTRUCTION = "Instruction"
    PLAIN = "Plain"
    CUSTOM = "Custom"


PROMPT_FILE = "prompt.json"
"""A Prompt beside a model that was taught with it."""


class Example(Spec):
    """A question and its answer, shown before the row's own question."""

    prompt: Passage
    """The question."""
    response: Passage
    """The answer. It is not trained on."""


class Prompt(Spec):
    """What is put around the questions of all rows, in training and in the evaluation."""

    system: Annotated[str, Field(max_length=8192)] = ""
    """System message of conversations that have none. Empty: none is added."""
    template: Annotated[
        str,
        Field(
            max_length=8192,
            json_schema_extra=cel(
                Rule("self == '' || self.contains('prompt')", "must contain {{ prompt }}")
            ),
        ),
    ] = ""
    """Jinja text that each question becomes, the examples' too; {{ prompt }} is the question as it
    stands in the row. It runs in a sandbox. Empty: the question as it is."""
    examples: Annotated[tuple[Example, ...], Field(max_length=8)] = Field(
        default=(), json_schema_extra={"x-kubernetes-list-type": "atomic"}
    )
    """Few-shot examples, as turns before the row's first question."""
    version: ShortText = ""
    """Name of this prompt, kept in the lineage of the model. Empty: the first characters of a
    digest over the fields above."""

    @property
    def is_empty(self) -> bool:
        """Whether nothing is put around the questions."""
        return not (self.system or self.template or self.examples)

    @property
    def name(self) -> str:
        """The version; a digest where none is given; empty for the empty prompt."""
        if self.version or self.is_empty:
            return self.version
        content = self.model_dump_json(exclude={"version"})
        return hashlib.sha256(content.encode()).hexdigest()[:12]
