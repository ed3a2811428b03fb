"""Tells a user's endpoint of a rollback: once, and whatever becomes of it.

A rollback does not wait for it and is not undone by it; status and Events have the same. Called by
the reconciler of ModelDeployments for the action Notify.
"""

import orjson
import structlog

from tunesmith_api.deploymentstatus import RollbackStatus
from tunesmith_operator.fetching import Unanswered, fetch, open_session

log = structlog.get_logger(__name__)

_SECONDS = 10.0
_ANSWER_BYTES = 64 << 10


async def notify(url: str, rollback: RollbackStatus, namespace: str, name: str) -> None:
    """POST the content of status.lastRollback with the object's namespace and name.

    Never raises; logs what came of it.
    """
    told = log.bind(namespace=namespace, name=name)
    content = rollback.model_dump(mode="json", by_alias=True, exclude_none=True)
    body = orjson.dumps({"namespace": namespace, "name": name, **content})
    async with open_session() as session:
        try:
            answer = await fetch(
                session,
                "POST",
                url,
                body=body,
                seconds=_SECONDS,
                limit_bytes=_ANSWER_BYTES,
            )
        except Unanswered as error:
            told.warning("nobody was told of the rollback", error=str(error))
            return
    if answer.status < 300:
        told.info("told of the rollback", status=answer.status)
    else:
        told.warning("the notification was refused", status=answer.status)
