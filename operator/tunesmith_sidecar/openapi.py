"""The OpenAPI document: our own routes from their types, OpenAI's by what is certain of them.

Bodies of OpenAI's routes are the engine's matter, so only the members that all engines share are
named. Pure. Called once by ``probes``.
"""

from typing import Any

import orjson
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from tunesmith_sidecar.predict import (
    FeedbackRequest,
    FeedbackResponse,
    PredictRequest,
    PredictResponse,
)
from tunesmith_sidecar.settings import Settings

_REFERENCE = "#/components/schemas/{model}"
_ERRORS = {
    "400": "The body cannot be used.",
    "401": "The API key is missing or wrong.",
    "413": "The body is too large.",
    "429": "Too many requests at the same time; Retry-After says how long to wait.",
    "502": "The inference engine does not answer.",
    "504": "No answer within the time limit.",
}
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
_CHAT = {
    "type": "object",
    "required": ["messages"],
    "properties": {
        "model": {"type": "string"},
        "messages": {"type": "array", "items": {"type": "object"}},
        "stream": {"type": "boolean", "default": False},
    },
}
_COMPLETION = {
    "type": "object",
    "required": ["prompt"],
    "properties": {
        "model": {"type": "string"},
        "prompt": {"type": "string"},
        "stream": {"type": "boolean", "default": False},
    },
}
_OBJECT = {"type": "object"}


def build_document(settings: Settings) -> bytes:
    """Return the document as JSON."""
    ours: list[type[BaseModel]] = [
        PredictRequest,
        PredictResponse,
        FeedbackRequest,
        FeedbackResponse,
    ]
    _, schema = models_json_schema(
        [(model, "validation") for model in ours], by_alias=True, ref_template=_REFERENCE
    )
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "Tunesmith serving",
            "version": settings.revision,
            "description": "One API before every inference engine. OpenAI's routes are passed on"
            " as they are, streams included.",
        },
        "paths": _paths(),
        "components": {
            "schemas": {**schema["$defs"], "Error": _ERROR},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }
    if settings.api_key or settings.api_key_file:
        document["security"] = [{"key": []}]
    return orjson.dumps(document)


def _paths() -> dict[str, Any]:
    return {
        "/v1/chat/completions": {"post": _passed("Answer a conversation", _CHAT)},
        "/v1/completions": {"post": _passed("Continue a text", _COMPLETION)},
        "/v1/models": {
            "get": {
                "summary": "List the models",
                "responses": _responses("200", _content(_OBJECT), ("401", "429", "502", "504")),
            }
        },
        "/api/v1/predict": {
            "post": _operation(
                "Answer a question", _named("PredictRequest"), "200", _named("PredictResponse")
            )
        },
        "/api/v1/feedback": {
            "post": _operation(
                "Say how an answer was",
                _named("FeedbackRequest"),
                "202",
                _named("FeedbackResponse"),
            )
        },
    }


def _passed(summary: str, body: dict[str, Any]) -> dict[str, Any]:
    operation = _operation(summary, body, "200", _OBJECT)
    content = operation["responses"]["200"]["content"]
    content["text/event-stream"] = {"schema": {"type": "string"}}
    return operation


def _operation(
    summary: str, body: dict[str, Any], status: str, answer: dict[str, Any]
) -> dict[str, Any]:
    return {
        "summary": summary,
        "requestBody": {"required": True, "content": _content(body)},
        "responses": _responses(status, _content(answer), tuple(_ERRORS)),
    }


def _responses(status: str, content: dict[str, Any], errors: tuple[str, ...]) -> dict[str, Any]:
    refused = {
        code: {"description": _ERRORS[code], "content": _content(_named("Error"))}
        for code in errors
    }
    return {status: {"description": "The answer.", "content": content}, **refused}


def _content(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _named(model: str) -> dict[str, str]:
    return {"$ref": _REFERENCE.format(model=model)}
