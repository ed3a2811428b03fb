"""What can be measured of a trained model: one suite each, on rows it has not been trained on.

A section of `evaluation`; run inputs. docs/evaluation.md says how each metric is computed.
"""

from enum import StrEnum
from typing import Annotated

from pydantic import ConfigDict, Field

from tunesmith_api.meta import HttpUrl, ObjectUri, Rule, SecretRef, Spec, cel, exactly_one
from tunesmith_api.objectives import Objective

_ONE_SOURCE = Rule("!has(self.uri) || !has(self.items)", "set at most one of uri and items")
QuestionText = Annotated[str, Field(max_length=1024, min_length=1)]


_ROWS = frozenset({"loss", "perplexity", "token_accuracy"})
_PAIRS = frozenset({"loss", "preference_accuracy", "preference_margin", "chosen_loss"})
_INTENTS = frozenset({"accuracy", "f1", "entity_f1", "parsed"})
_SPEEDS = frozenset({"tokens_per_second", "peak_memory_bytes"})


class HeldOut(Spec):
    """Loss, perplexity and token accuracy on the test rows."""


class Samples(Spec):
    """Answers of the base and of the tuned model, side by side in the report. Not judged."""

    prompts: Annotated[tuple[QuestionText, ...], Field(min_length=1, max_length=10)]
    """Questions to ask."""
    max_new_tokens: Annotated[int, Field(ge=1, le=1024)] = 64
    """Longest answer, in tokens."""


class QuestionItem(Spec):
    """A question and what is expected."""

    prompt: QuestionText
    """What is asked."""
    answer: Annotated[str, Field(max_length=512)] = ""
    """The expected answer."""


class Questions(Spec):
    """Questions with expected answers; by default those of the job's own test rows."""

    model_config = ConfigDict(json_schema_extra=cel(_ONE_SOURCE))

    uri: ObjectUri | None = None
    """s3://BUCKET/KEY of a .jsonl file with lines {"prompt": ..., "answer": ...}, read with the
    credentials of the dataset. Default: items, or else the last answer of each test row and what
    comes before it."""
    items: Annotated[tuple[QuestionItem, ...], Field(min_length=1, max_length=16)] | None = None
    """A few questions in place of a file. A longer list belongs into a file."""
    max_rows: Annotated[int, Field(ge=1, le=5000)] = 100
    """Questions asked at most; of more of them, this many are taken evenly spread."""
    max_new_tokens: Annotated[int, Field(ge=1, le=2048)] = 64
    """Longest answer, in tokens."""


class TextMetric(StrEnum):
    """How an answer is compared with the expected one; also the metric's name."""

    EXACT = "exact"
    CONTAINS = "contains"
    BLEU = "bleu"
    ROUGE_L = "rougeL"
    CHRF = "chrF"
    SIMILARITY = "similarity"


class Prompts(Questions):
    """Answers compared with the expected ones."""

    metrics: Annotated[tuple[TextMetric, ...], Field(min_length=1, max_length=6)] = Field(
        default=(TextMetric.EXACT, TextMetric.ROUGE_L),
        json_schema_extra={"x-kubernetes-list-type": "set"},
    )
    """exact: the same but for white space. contains: the expected answer occurs, whatever its case.
    bleu: corpus BLEU, 0 to 100. rougeL: longest common subsequence, F1. chrF: character n-grams,
    0 to 100. similarity: cosine of the base model's mean hidden states."""


class Intent(Questions):
    """Answers that are JSON, {"intent": ..., "entities": {NAME: VALUE}}: accuracy, f1 (macro over
    the intents), entity_f1 (micro over names with values) and parsed (share of answers that are
    such JSON)."""


class Judge(Questions):
    """Answers rated by another model behind an OpenAI-compatible endpoint. A metric for each
    criterion, and unjudged: the share of answers without a rating."""

    url: HttpUrl
    """Base URL of the API, such as http://judge:8000/v1; /chat/completions is added."""
    model: Annotated[str, Field(max_length=256, min_length=1)]
    """Name of the model that judges."""
    secret_ref: SecretRef | None = None
    """Secret whose key API_KEY is sent as a bearer token. Default: none is sent."""
    criteria: Annotated[
        tuple[Annotated[str, Field(max_length=32, pattern=r"^[a-z][a-z0-9_]*$")], ...],
        Field(min_length=1, max_length=5),
    ] = Field(
        default=("relevance", "coherence", "quality"),
        json_schema_extra={"x-kubernetes-list-type": "set"},
    )
    """What is rated; each is a metric of its name."""
    scale: Annotated[int, Field(ge=2, le=100)] = 5
    """The best rating; the worst is 1."""
    prompt: Annotated[str, Field(max_length=2048)] = ""
    """What the judge is to look at, in words, put before question and answer. Default: a sentence
    that asks for a strict and fair judgement."""
    timeout_seconds: Annotated[int, Field(ge=1, le=600)] = 60
    """Seconds to wait for a rating. What fails is tried again twice."""


class TaskFiles(Spec):
    """Where task files of your own are."""

    uri: ObjectUri
    """s3://BUCKET/PREFIX/ of task files (.yaml) and of the data files beside them, read with the
    credentials of the dataset. dataset_kwargs.data_files are paths from the task file. Functions
    (!function) are refused: code belongs into the image."""


class LmEval(Spec):
    """Tasks of lm-evaluation-harness. Needs a trainer image with the extra lm-eval; the data of the
    harness's own tasks is fetched from the Hugging Face Hub."""

    tasks: Annotated[
        tuple[Annotated[str, Field(max_length=64, pattern=r"^[A-Za-z0-9_.-]+$")], ...],
        Field(min_length=1, max_length=8),
    ] = Field(json_schema_extra={"x-kubernetes-list-type": "set"})
    """Names of tasks, groups or tags: the harness's own, such as hellaswag, or those of taskFiles,
    which come first. A metric's name is TASK_METRIC, in letters, digits and underscores."""
    task_files: TaskFiles | None = None
    """Files with further tasks. Default: none; only the harness's own are known."""
    limit: Annotated[int, Field(ge=0, le=100_000)] = 0
    """Rows of each task; 0 is all."""
    few_shot: Annotated[int, Field(ge=0, le=32)] = 0
    """Examples shown before each question."""


class Speed(Spec):
    """tokens_per_second generated for one request at a time, and peak_memory_bytes, in the trainer:
    to compare models with, not what an inference engine will reach."""

    prompt_tokens: Annotated[int, Field(ge=1, le=4096)] = 64
    """Tokens of the prompt."""
    new_tokens: Annotated[int, Field(ge=1, le=1024)] = 32
    """Tokens generated each time."""
    repeats: Annotated[int, Field(ge=2, le=100)] = 5
    """Times it is measured, after one that does not count."""


class Suite(Spec):
    """One thing that is measured. Exactly one member besides the name is set."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            exactly_one("heldOut", "samples", "prompts", "intent", "judge", "lmEval", "speed")
        )
    )

    name: Annotated[str, Field(max_length=63, pattern=r"^[a-z0-9-]+$")]
    """First part of the names of the suite's metrics, as in heldout/loss."""
    held_out: HeldOut | None = None
    """Metrics on the test rows."""
    samples: Samples | None = None
    """Answers to look at."""
    prompts: Prompts | None = None
    """Answers compared with the expected ones."""
    intent: Intent | None = None
    """Intents and entities."""
    judge: Judge | None = None
    """Answers rated by another model."""
    lm_eval: LmEval | None = None
    """Tasks of lm-evaluation-harness."""
    speed: Speed | None = None
    """Speed and memory."""

    def measures(self, objective: Objective) -> frozenset[str] | None:
        """Give the names of its metrics behind the slash; None where only running it tells."""
        if self.lm_eval:
            return None
        if self.held_out:
            return _PAIRS if objective is Objective.DPO else _ROWS
        if self.prompts:
            return frozenset(metric.value for metric in self.prompts.metrics)
        if self.judge:
            return frozenset({*self.judge.criteria, "unjudged"})
        return _INTENTS if self.intent else _SPEEDS if self.speed else frozenset()

    @property
    def questions(self) -> Questions | None:
        """What the suite asks, where it has expected answers."""
        return self.prompts or self.intent or self.judge
