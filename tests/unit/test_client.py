"""The client: retries what may pass, names what does not, asks the fence before each write."""

import asyncio

import aiohttp
import orjson
import pytest

from tunesmith_operator.kube.client import KubeClient, Retries
from tunesmith_operator.kube.errors import (
    AlreadyExists,
    Conflict,
    Gone,
    Invalid,
    LostLeadershipError,
    NotOurs,
    Refused,
    Unavailable,
    WebhookRefused,
)
from tunesmith_operator.kube.kinds import KINDS, Object
from tunesmith_operator.kube.transport import Request, Response, chain

JOB = {
    "kind": "Job",
    "apiVersion": "batch/v1",
    "metadata": {"namespace": "default", "name": "j", "uid": "u", "resourceVersion": "1"},
}


async def no_sleep(_: float) -> None:
    return


def ok(body: object = JOB) -> Response:
    return Response(200, orjson.dumps(body))


def status(code: int, reason: str = "", retry_after: float | None = None) -> Response:
    return Response(code, orjson.dumps({"message": f"m{code}", "reason": reason}), retry_after)


def invalid(cause: dict[str, str]) -> Response:
    details = {"causes": [{"message": "m", **cause}]}
    return Response(422, orjson.dumps({"message": "m422", "details": details}))


class Server:
    """Gives its answers in turn, the last one for ever."""

    def __init__(self, *answers: Response | Exception) -> None:
        self.answers = list(answers)
        self.requests: list[Request] = []

    async def __call__(self, request: Request) -> Response:
        self.requests.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


def client(server: Server, **more) -> KubeClient:
    return KubeClient(server, retries=Retries(jitter=lambda: 1.0, sleep=no_sleep), **more)


@pytest.mark.parametrize(
    "trouble",
    [
        *(pytest.param(status(code), id=str(code)) for code in (401, 429, 500, 502, 503, 504)),
        pytest.param(aiohttp.ServerDisconnectedError(), id="reset"),
        pytest.param(TimeoutError(), id="timeout"),
        pytest.param(ConnectionRefusedError(), id="refused"),
    ],
)
async def test_what_may_pass_is_tried_again(trouble) -> None:
    server = Server(trouble, trouble, ok())
    assert await client(server).get("Job", "default", "j") == JOB
    assert len(server.requests) == 3


async def test_retries_end() -> None:
    server = Server(status(503))
    with pytest.raises(Unavailable, match="m503"):
        await client(server).create(JOB)
    assert len(server.requests) == 4


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        pytest.param(status(409, "AlreadyExists"), AlreadyExists, id="exists"),
        pytest.param(status(409, "Conflict"), Conflict, id="conflict"),
        pytest.param(invalid({"reason": "FieldValueInvalid", "field": "s"}), Invalid, id="invalid"),
        pytest.param(status(403), Refused, id="forbidden"),
        pytest.param(status(404), Gone, id="no namespace"),
        pytest.param(Response(400, b"<html>"), Refused, id="not JSON"),
    ],
)
async def test_what_does_not_pass_is_named_at_once(answer, error) -> None:
    server = Server(answer)
    with pytest.raises(error):
        await client(server).create(JOB)
    assert len(server.requests) == 1


async def test_what_a_policy_refuses_with_422_is_not_invalid() -> None:
    """A ValidatingAdmissionPolicy says so by default, and may say otherwise tomorrow."""
    for answer in (invalid({}), status(422)):
        with pytest.raises(Refused) as caught:
            await client(Server(answer)).create(JOB)
        assert not isinstance(caught.value, Invalid)


@pytest.mark.parametrize("code", [400, 404, 409, 422, 500, 503])
@pytest.mark.parametrize(
    "said",
    [
        pytest.param('admission webhook "guard.example.org" denied the request: no', id="denied"),
        pytest.param(
            'Internal error occurred: failed calling webhook "guard.example.org": refused',
            id="away",
        ),
    ],
)
async def test_what_a_webhook_says_is_told_whatever_the_code(code: int, said: str) -> None:
    answer = Response(code, orjson.dumps({"message": said, "reason": "Conflict"}))
    with pytest.raises(WebhookRefused, match=r"guard\.example\.org"):
        await client(Server(answer)).create(JOB)


async def test_a_webhook_that_answers_again_is_forgotten() -> None:
    away = Response(500, orjson.dumps({"message": 'failed calling webhook "g": refused'}))
    assert await client(Server(away, away, ok())).create(JOB) == JOB


async def test_waits_grow_with_jitter_and_the_servers_wish_counts_up_to_a_limit() -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    server = Server(status(429, retry_after=2.0), status(429, retry_after=900.0), status(503), ok())
    await KubeClient(server, retries=Retries(jitter=lambda: 0.0, sleep=sleep)).get("Job", "d", "j")
    assert waits == [1.0, 2.5, 0.75]


async def test_a_missing_object_is_none() -> None:
    assert await client(Server(status(404))).get("Job", "default", "j") is None


async def test_the_fence_is_asked_before_each_time_a_write_is_sent() -> None:
    asked = 0

    def fence() -> None:
        nonlocal asked
        asked += 1
        if asked == 3:
            raise LostLeadershipError

    server = Server(status(503))
    with pytest.raises(LostLeadershipError):
        await client(server, fence=fence).create(JOB)
    assert len(server.requests) == 2


async def test_reads_pass_without_the_fence() -> None:
    def closed() -> None:
        raise LostLeadershipError

    assert await client(Server(ok()), fence=closed).get("Job", "default", "j") == JOB
    await client(Server(ok({"metadata": {"resourceVersion": "1"}})), fence=closed).list("Job")


def owned_by(uid: str) -> Object:
    owners = [{"uid": uid, "controller": True}]
    return {**JOB, "metadata": {**JOB["metadata"], "ownerReferences": owners}}


async def test_after_a_lost_answer_the_child_that_is_there_is_adopted() -> None:
    shown = []
    server = Server(TimeoutError(), status(409, "AlreadyExists"), ok(owned_by("u-a")))
    kube = client(server, saw=lambda kind, body: shown.append((kind, body["metadata"]["name"])))
    assert await kube.create_or_adopt(JOB, "u-a") == owned_by("u-a")
    assert shown == [("Job", "j")]


@pytest.mark.parametrize(
    "found",
    [
        pytest.param(owned_by("u-other"), id="another owner"),
        pytest.param(JOB, id="no owner"),
    ],
)
async def test_a_child_of_somebody_else_is_not_adopted(found) -> None:
    server = Server(status(409, "AlreadyExists"), ok(found))
    with pytest.raises(NotOurs):
        await client(server).create_or_adopt(JOB, "u-a")


async def test_a_child_that_vanishes_in_between_is_a_conflict() -> None:
    server = Server(status(409, "AlreadyExists"), status(404))
    with pytest.raises(Conflict):
        await client(server).create_or_adopt(JOB, "u-a")


async def test_delete_names_exactly_one_object() -> None:
    server = Server(ok())
    assert await client(server).delete("Job", "default", "j", uid="u", resource_version="7")
    assert server.requests[0].body == {
        "propagationPolicy": "Foreground",
        "preconditions": {"uid": "u", "resourceVersion": "7"},
    }


async def test_deleting_what_is_gone_is_no_error() -> None:
    assert not await client(Server(status(404))).delete("Job", "default", "j", uid="u")


async def test_a_status_is_applied_to_that_very_object() -> None:
    server = Server(ok())
    await client(server).apply_status(
        "FineTuneJob", "ns", "a", {"stage": "Train"}, resource_version="7"
    )
    (request,) = server.requests
    assert request.path == "/apis/tunesmith.dev/v1alpha1/namespaces/ns/finetunejobs/a/status"
    assert request.query == {"fieldManager": "tunesmith", "force": "true"}
    assert request.body is not None
    assert request.body["metadata"] == {
        "namespace": "ns",
        "name": "a",
        "resourceVersion": "7",
    }


async def test_lists_are_read_to_the_end() -> None:
    first = {"metadata": {"resourceVersion": "5", "continue": "t"}, "items": [{"n": 1}]}
    second = {"metadata": {"resourceVersion": "5"}, "items": [{"n": 2}]}
    server = Server(ok(first), ok(second))
    assert await client(server).list("Pod", labels="x") == [{"n": 1}, {"n": 2}]
    assert server.requests[1].query == {"limit": "500", "labelSelector": "x", "continue": "t"}


async def test_a_list_that_expired_says_so() -> None:
    with pytest.raises(Gone):
        await client(Server(status(410, "Expired"))).list("Pod")


async def test_every_call_is_told() -> None:
    told = []
    server = Server(TimeoutError(), ok())
    kube = client(server, called=lambda request, code: told.append((request.verb, code)))
    await kube.get("Job", "default", "j")
    assert told == [("get", 0), ("get", 200)]


async def test_interceptors_see_requests_in_order_and_answers_in_reverse() -> None:
    log = []

    def named(name: str):
        async def intercept(request, send):
            log.append(f"{name} in")
            answer = await send(request)
            log.append(f"{name} out")
            return answer

        return intercept

    await chain(Server(ok()), [named("a"), named("b")])(Request("get", "Job", "GET", "/"))
    assert log == ["a in", "b in", "b out", "a out"]


def test_names_cannot_leave_their_place_in_a_path() -> None:
    path = KINDS["Pod"].path("../x", "a/b")
    assert path == "/api/v1/namespaces/..%2Fx/pods/a%2Fb"


def test_cancelling_is_not_retried() -> None:
    async def hang(_: Request) -> Response:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(KubeClient(hang).get("Job", "d", "j"))
