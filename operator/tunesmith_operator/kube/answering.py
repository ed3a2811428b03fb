"""What an answer of the API server says: the object, or which error it is. Called by ``client``."""

import orjson

from tunesmith_operator.kube.errors import (
    AlreadyExists,
    Conflict,
    Gone,
    Invalid,
    KubeError,
    Refused,
    WebhookRefused,
)
from tunesmith_operator.kube.kinds import Object
from tunesmith_operator.kube.transport import Request, Response


def loads(answer: Response) -> Object:
    """Give the object."""
    body: Object = orjson.loads(answer.body)
    return body


def _status(answer: Response) -> Object:
    try:
        body = orjson.loads(answer.body)
    except orjson.JSONDecodeError:
        return {}
    return body if isinstance(body, dict) else {}


def message_of(answer: Response) -> str:
    """Give why, in the API server's words."""
    return str(_status(answer).get("message") or f"HTTP {answer.status}")[:1024]


def _names_a_field(answer: Response) -> bool:
    """Whether the kind's own rules say no: an admission policy answers 422 too, without a field."""
    causes = (_status(answer).get("details") or {}).get("causes") or ()
    return any(cause.get("field") for cause in causes)


def is_from_webhook(answer: Response) -> bool:
    """Whether an admission webhook is the reason, which may deny with any code."""
    said = message_of(answer)
    return 'admission webhook "' in said or 'failed calling webhook "' in said


def error_of(request: Request, answer: Response) -> KubeError:
    """Give the error that a refusal is."""
    message = f"{request.verb} {request.kind}: {message_of(answer)}"
    if is_from_webhook(answer):
        return WebhookRefused(message, answer.status)
    match answer.status:
        case 404 | 410:
            return Gone(message, answer.status)
        case 409 if _status(answer).get("reason") == "AlreadyExists":
            return AlreadyExists(message, answer.status)
        case 409:
            return Conflict(message, answer.status)
        case 422 if _names_a_field(answer):
            return Invalid(message, answer.status)
        case _:
            return Refused(message, answer.status)
