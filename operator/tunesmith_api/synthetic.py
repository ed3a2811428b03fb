"""Rows that a generator model writes, to be trained on beside those of people.

A section of `dataset`.
"""

from typing import Annotated

from pydantic import ConfigDict, Field

from tunesmith_api.meta import (
    DecimalText,
    HttpUrl,
    ModelUri,
    Rule,
    SecretRef,
    ShortText,
    Spec,
    cel,
    exactly_one,
)


class Generator(Spec):
    """The model that writes rows. Exactly one of uri and url is set."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            exactly_one("uri", "url"),
            Rule("!has(self.url) || size(self.model) > 0", "url needs model, its name there"),
            Rule(
                "!has(self.uri) || !has(self.secretRef)",
                "secretRef is for url: a uri is read with spec.model.secretRef",
            ),
        )
    )

    uri: ModelUri | None = None
    """A small model, as spec.model.uri, that the prepare pod runs on its CPU."""
    url: HttpUrl | None = None
    """An endpoint with OpenAI's API, up to and with /v1."""
    model: ShortText = ""
    """Name of the model at the url."""
    secret_ref: SecretRef | None = None
    """Secret with OPENAI_API_KEY, for the url. Absent: none is sent."""


class Synthetic(Spec):
    """Rows made by a model. They are cleaned as others are, and only ever trained on."""

    generator: Generator
    """Who writes them."""
    prompts: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=4096)], ...],
        Field(min_length=1, max_length=16),
    ] = Field(json_schema_extra={"x-kubernetes-list-type": "atomic"})
    """Jinja texts that ask the generator for a row, taken in turns. {{ examples }} is a list of
    training rows, each with prompt and response. The answer must be a JSON object with prompt and
    response, or lines User: and Assistant:; others are left out."""
    examples: Annotated[int, Field(ge=0, le=16)] = 3
    """Training rows that a prompt is given, drawn by the seed."""
    samples: Annotated[int, Field(ge=1, le=100_000)] = 100
    """Answers that are asked for; fewer rows stay."""
    temperature: DecimalText = Field(
        default="0.8",
        json_schema_extra=cel(
            Rule("double(self) >= 0.0 && double(self) <= 2.0", "must be between 0 and 2")
        ),
    )
    """How freely tokens are drawn; 0 takes the likeliest."""
    max_new_tokens: Annotated[int, Field(ge=1, le=8192)] = 512
    """Longest answer of the generator, in tokens."""
    min_quality: DecimalText = Field(
        default="0",
        json_schema_extra=cel(
            Rule("double(self) >= 0.0 && double(self) <= 1.0", "must be between 0 and 1")
        ),
    )
    """Lowest quality of a row, from 0 to 1, as dataset.clean.minQuality has it."""
    seed: Annotated[int, Field(ge=0, le=2_147_483_647)] = 17
    """Fixes examples and, for a uri, the answers."""
