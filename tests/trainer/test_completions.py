"""Calls to an endpoint with OpenAI's API, against a real server."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import chain, repeat
from pathlib import Path

import pytest

from tests.ports import refusing_port
from tests.trainer.openai_endpoint import Endpoint, Reply
from tunesmith_trainer.completions import (
    Completions,
    Garbled,
    Refused,
    Unanswered,
    Unavailable,
)
from tunesmith_trainer.keys import read_key
from tunesmith_trainer.outcome import Interrupted
from tunesmith_trainer.stopping import StopSignal

BODY = {"model": "m", "messages": [{"role": "user", "content": "?"}]}
TRIES = 3


def ask(
    url: str,
    *,
    pauses: list[float] | None = None,
    key: str = "",
    read: Callable[[str], str] = str,
) -> str:
    """Ask once, without the pauses, which are kept in ``pauses``."""
    sleep = ([] if pauses is None else pauses).append
    with Completions(url, key=key, timeout_seconds=60, tries=TRIES, sleep=sleep) as found:
        return found.ask(BODY, read)


def test_a_key_is_a_secrets_or_else_a_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_KEY", "of the environment")
    assert read_key(tmp_path, "SOME_KEY") == "of the environment"
    # It may be meant for somebody else.
    assert read_key(tmp_path, "SOME_KEY", is_asked=False) == ""
    (tmp_path / "SOME_KEY").write_text("k1\n")
    assert read_key(tmp_path, "SOME_KEY", is_asked=False) == "k1"


def test_the_question_and_the_key_arrive() -> None:
    with Endpoint(repeat("42")) as endpoint:
        assert ask(endpoint.url + "/", key="k1") == "42"
        assert ask(endpoint.url) == "42"
    first, second = endpoint.asked
    assert (first.path, first.body) == ("/v1/chat/completions", BODY)
    assert (first.authorization, second.authorization) == ("Bearer k1", "")


@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 502, 503, 504])
def test_what_may_pass_is_tried_again(status: int) -> None:
    pauses: list[float] = []
    with Endpoint(chain([status, status], repeat("42"))) as endpoint:
        assert ask(endpoint.url, pauses=pauses) == "42"
    assert len(endpoint.asked) == 3
    assert len(pauses) == 2


def test_it_is_not_tried_for_ever() -> None:
    with (
        Endpoint(repeat(503)) as endpoint,
        pytest.raises(Unavailable, match="answers 503"),
    ):
        ask(endpoint.url)
    assert len(endpoint.asked) == TRIES


@pytest.mark.parametrize(
    ("reply", "error", "words"),
    [
        pytest.param(401, Refused, "401", id="no key"),
        pytest.param(403, Refused, "403", id="not for this key"),
        pytest.param(404, Unanswered, "404", id="no such model"),
        pytest.param(501, Unanswered, "501", id="not implemented"),
        pytest.param(Reply(b"<html>"), Unanswered, "<html>", id="no JSON"),
        pytest.param(Reply(b'{"choices": []}'), Unanswered, "choices", id="no choice"),
        pytest.param(Reply(b" " * (1 << 20) + b"{}"), Unanswered, "more than", id="too long"),
    ],
)
def test_what_will_not_pass_is_asked_once(
    reply: int | Reply, error: type[Exception], words: str
) -> None:
    with Endpoint(repeat(reply)) as endpoint, pytest.raises(error, match=words):
        ask(endpoint.url)
    assert len(endpoint.asked) == 1


def test_an_answer_without_text_is_empty() -> None:
    with Endpoint(repeat(Reply(b'{"choices": [{"message": {"content": null}}]}'))) as endpoint:
        assert ask(endpoint.url) == ""


def test_nobody_listens() -> None:
    pauses: list[float] = []
    with refusing_port() as port, pytest.raises(Unavailable, match="cannot be reached"):
        ask(f"http://127.0.0.1:{port}/v1", pauses=pauses)
    assert len(pauses) == TRIES - 1


@pytest.mark.parametrize("url", ["http://h:port/v1", "http://a..b/v1", "http:///v1"])
def test_an_address_that_is_none_is_no_traceback(url: str) -> None:
    with pytest.raises(Unanswered, match="cannot be asked") as caught:
        ask(url)
    assert not isinstance(caught.value, Unavailable)


def in_seconds(seconds: float) -> str:
    return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)


@pytest.mark.parametrize(
    ("header", "least", "most"),
    [
        pytest.param(lambda: "7", 7, 7, id="seconds"),
        pytest.param(lambda: in_seconds(25), 5, 25, id="a date"),
        pytest.param(lambda: "86400", 30, 30, id="a day is too long"),
        pytest.param(lambda: in_seconds(-60), 0, 1, id="a date that has passed"),
        pytest.param(lambda: "soon", 0, 1, id="neither"),
    ],
)
def test_the_endpoint_says_when_to_come_back(
    header: Callable[[], str], least: float, most: float
) -> None:
    pauses: list[float] = []
    busy = Reply(b"{}", 429, {"Retry-After": header()})
    with Endpoint(chain([busy], repeat("42"))) as endpoint:
        assert ask(endpoint.url, pauses=pauses) == "42"
    (pause,) = pauses
    assert least <= pause <= most


def test_a_garbled_answer_is_asked_for_again_and_then_given_up() -> None:
    def read(text: str) -> str:
        if text != "42":
            raise Garbled("gives no number")
        return text

    with Endpoint(chain(["no"], repeat("42"))) as endpoint:
        assert ask(endpoint.url, read=read) == "42"
    with Endpoint(repeat("no")) as endpoint, pytest.raises(Garbled, match="no number"):
        ask(endpoint.url, read=read)
    assert len(endpoint.asked) == TRIES


def test_the_end_of_the_pod_ends_the_pauses() -> None:
    stop = StopSignal()
    stop.request()
    with (
        Endpoint(repeat(503)) as endpoint,
        Completions(endpoint.url, timeout_seconds=60, tries=99, sleep=stop.sleep) as completions,
        pytest.raises(Interrupted),
    ):
        completions.ask(BODY, str)
    assert len(endpoint.asked) == 1
