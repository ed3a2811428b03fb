"""POST /api/v1/predict and POST /api/v1/feedback: the short way to ask, and to say how it was.

A prediction is one chat completion of the engine in other words. Nothing is made up: what the
engine does not say is null. Called through ``guard``.
"""

from typing import Annotated, Any, Literal, TypeVar

import orjson
from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from tunesmith_sidecar.answers import error_answer, json_answer
from tunesmith_sidecar.conversations.log import ConversationLog, Exchanged, Feedback
from tunesmith_sidecar.engine import Engine
from tunesmith_sidecar.guard import REQUEST_ID, Exchange
from tunesmith_sidecar.metrics import Failure
from tunesmith_sidecar.proxy import client_headers
from tunesmith_sidecar.settings import Settings
from tunesmith_sidecar.usage import Answer, read_answer

CHAT_PATH = "/v1/chat/completions"
Content = Annotated[str, Field(min_length=1, max_length=1_000_000)]
Identifier = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9._:-]+$")]


class _Message(BaseModel):
    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="forbid",
        use_attribute_docstrings=True,
    )


class Turn(_Message):
    """One message of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: Content


class Context(_Message):
    """What the model should know besides the query."""

    system: Annotated[str, Field(max_length=1_000_000)] = ""
    """How the model should behave, or what it should know."""
    messages: Annotated[tuple[Turn, ...], Field(max_length=1000)] = ()
    """What was said before, oldest first."""


class Parameters(_Message):
    """How to generate; what is left out is the engine's choice."""

    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    stop: Annotated[tuple[str, ...], Field(max_length=4)] | None = None
    seed: int | None = None


class PredictRequest(_Message):
    """A question."""

    query: Content
    context: Context | tuple[Turn, ...] | str = ""
    """A string is a system message, a list the messages so far."""
    parameters: Parameters = Field(default_factory=Parameters)


class PredictUsage(_Message):
    """Tokens as the engine counts them."""

    prompt_tokens: int
    completion_tokens: int


class PredictMetadata(_Message):
    """How the answer came about."""

    request_id: str
    """What feedback refers to."""
    revision: str
    model: str
    finish_reason: str | None
    usage: PredictUsage | None
    latency_milliseconds: int


class PredictResponse(_Message):
    """An answer."""

    response: str
    confidence: float | None
    """Geometric mean of the probabilities of the answer's tokens; null when the engine does not
    give them."""
    metadata: PredictMetadata


class FeedbackRequest(_Message):
    """How an answer was."""

    request_id: Identifier
    """The header x-request-id of the answer, or metadata.requestId of a prediction."""
    rating: Literal["good", "bad", "neutral"] = "neutral"
    """The last one counts; a comment or correction without one takes none back."""
    comment: Annotated[str, Field(max_length=10_000)] = ""
    correction: Annotated[str, Field(max_length=100_000)] = ""
    """What the answer should have been."""


class FeedbackResponse(_Message):
    """What became of it."""

    stored: bool
    """Whether it goes to the conversation log, within seconds; it is counted in any case."""


Model = TypeVar("Model", bound=BaseModel)


class Refused(Exception):
    """A body that cannot be used; the text says what is wrong with it."""


class Predictions:
    """The two handlers."""

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        conversations: ConversationLog | None,
    ) -> None:
        self._settings = settings
        self._engine = engine
        self._conversations = conversations

    async def predict(self, request: web.Request, exchange: Exchange) -> web.StreamResponse:
        """Answer a question."""
        try:
            asked = _parse(PredictRequest, await request.read())
        except Refused as error:
            return error_answer(400, str(error), "invalid_body")
        body = orjson.dumps(self._chat_request(asked))
        headers = {"Content-Type": "application/json", REQUEST_ID: exchange.request_id}
        async with self._engine.request("POST", CHAT_PATH, body, headers) as answer:
            content = await answer.read()
            said = read_answer(content) if answer.status == 200 else None
            if said is None:
                if answer.status == 200 or answer.status >= 500:
                    exchange.failed(Failure.ENGINE_ERROR)
                return _engine_error(answer.status, content, client_headers(answer.headers))
        exchange.metrics.used(said.usage, exchange.seconds)
        if self._conversations is not None and exchange.is_logged:
            self._conversations.add(
                Exchanged(exchange.request_id, exchange.session, body, content, is_stream=False)
            )
        return json_answer(self._prediction(said, exchange).model_dump(by_alias=True))

    async def feedback(self, request: web.Request, exchange: Exchange) -> web.StreamResponse:
        """Take feedback."""
        try:
            given = _parse(FeedbackRequest, await request.read())
        except Refused as error:
            return error_answer(400, str(error), "invalid_body")
        exchange.metrics.rated(given.rating)
        rating = given.rating if "rating" in given.model_fields_set else ""
        feedback = Feedback(rating, given.comment, given.correction)
        log = self._conversations if exchange.is_logged else None
        stored = log is not None and log.add_feedback(given.request_id, exchange.session, feedback)
        return json_answer(FeedbackResponse(stored=stored).model_dump(by_alias=True), 202)

    def _chat_request(self, asked: PredictRequest) -> dict[str, Any]:
        context = asked.context
        if isinstance(context, str):
            context = Context(system=context)
        elif isinstance(context, tuple):
            context = Context(messages=context)
        system = [{"role": "system", "content": context.system}] if context.system else []
        earlier = [turn.model_dump() for turn in context.messages]
        value: dict[str, Any] = asked.parameters.model_dump(exclude_none=True)
        value["messages"] = [*system, *earlier, {"role": "user", "content": asked.query}]
        if self._settings.model_name:
            value["model"] = self._settings.model_name
        if self._settings.engine_logprobs:
            value["logprobs"] = True
        return value

    def _prediction(self, said: Answer, exchange: Exchange) -> PredictResponse:
        usage = PredictUsage(**said.usage._asdict()) if said.usage else None
        metadata = PredictMetadata(
            request_id=exchange.request_id,
            revision=self._settings.revision,
            model=said.model,
            finish_reason=said.finish_reason,
            usage=usage,
            latency_milliseconds=round(exchange.seconds * 1000),
        )
        return PredictResponse(response=said.text, confidence=said.confidence, metadata=metadata)


def _engine_error(status: int, content: bytes, headers: dict[str, str]) -> web.Response:
    if status != 200:
        return web.Response(body=content, status=status, headers=headers)
    return error_answer(502, "The engine's answer is not a completion.", "engine_answer")


def _parse(model: type[Model], body: bytes) -> Model:
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        # Places and reasons, never the text that was sent.
        problems = error.errors(include_url=False, include_input=False, include_context=False)
        lines = [f"{'.'.join(map(str, item['loc'])) or 'body'}: {item['msg']}" for item in problems]
        raise Refused("; ".join(lines[:5])) from error
