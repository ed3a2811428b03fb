"""Who may be asked, and what is read of an answer."""

from __future__ import annotations

import asyncio
import socket

import pytest
from aiohttp import web

from tests.metrics.conftest import Serve
from tunesmith_operator.fetching import (
    Unanswered,
    Unreachable,
    fetch,
    in_short,
    is_metadata_service,
    open_session,
)
from tunesmith_operator.metrics.together import all_of


@pytest.mark.parametrize(
    ("address", "is_one"),
    [
        ("169.254.169.254", True),
        ("169.254.170.2", True),
        ("::ffff:169.254.169.254", True),
        ("64:ff9b::a9fe:a9fe", True),
        ("2002:a9fe:a9fe::1", True),
        ("fe80::1%eth0", True),
        ("fd00:ec2::254", True),
        ("100.100.100.200", True),
        ("168.63.129.16", True),
        ("10.0.0.7", False),
        ("127.0.0.1", False),
        ("fd00::7", False),
        ("2001:db8::1", False),
        ("64:ff9b::a00:1", False),
    ],
)
def test_metadata_services_are_known_in_every_form(address: str, is_one: bool) -> None:
    assert is_metadata_service(address) is is_one


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest/meta-data/",
        "http://[::ffff:169.254.169.254]/",
        "http://2852039166/",
        "http://0xA9FEA9FE/",
        "http://169.254.43518/",
    ],
)
async def test_no_way_of_writing_it_leads_to_a_metadata_service(url: str) -> None:
    async with open_session() as session:
        with pytest.raises(Unreachable, match=r"metadata service|not a canonical IPv4 address"):
            await fetch(session, "GET", url, seconds=60, limit_bytes=100)


async def test_a_name_that_leads_to_a_metadata_service_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def resolve(*_: object, **__: object) -> list[object]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("169.254.169.254", 80))]

    # Nobody's name server can be asked for such a name here.
    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve)
    async with open_session() as session:
        with pytest.raises(Unreachable, match="is a cloud's metadata service"):
            await fetch(session, "GET", "http://innocent.example/", seconds=60, limit_bytes=100)


async def test_a_redirect_leads_nowhere(serve: Serve) -> None:
    async def redirect(_: web.Request) -> web.Response:
        raise web.HTTPFound("http://169.254.169.254/")

    url = await serve(redirect)
    async with open_session() as session:
        assert (await fetch(session, "GET", url, seconds=60, limit_bytes=100)).status == 302


async def test_an_answer_is_bounded_in_size_and_time(serve: Serve) -> None:
    async def drip(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(100):
            await response.write(b"x" * 20)
            await asyncio.sleep(0.05)
        return response

    url = await serve(drip)
    async with open_session() as session:
        with pytest.raises(Unreachable, match=r"no answer within 0\.3 s"):
            await fetch(session, "GET", url, seconds=0.3, limit_bytes=1000)
        with pytest.raises(Unanswered, match="larger than 100 bytes"):
            await fetch(session, "GET", url, seconds=60, limit_bytes=100)


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/", "http://no-such-host.invalid/", "http://["])
async def test_nobody_there_is_unreachable(url: str) -> None:
    async with open_session() as session:
        with pytest.raises(Unreachable):
            await fetch(session, "GET", url, seconds=3, limit_bytes=100)


def test_what_others_say_is_short_and_on_one_line() -> None:
    assert in_short(b"a\n b\xff" + b"c" * 1000) == ("a b\ufffd" + "c" * 1000)[:200]


async def test_nothing_goes_on_once_one_has_failed() -> None:
    begun: list[int] = []
    stopped: list[int] = []
    both_begun = asyncio.Event()

    async def work(number: int) -> int:
        begun.append(number)
        if number < 2:
            return number
        if number == 2:
            await both_begun.wait()
            raise Unanswered("two")
        if number == 4:
            both_begun.set()
        try:
            return await asyncio.Event().wait()
        finally:
            stopped.append(number)

    with pytest.raises(Unanswered, match="two"):
        await all_of(*(work(n) for n in range(9)), at_once=3)
    await asyncio.sleep(0.1)
    assert set(begun) >= {3, 4}
    assert sorted(stopped) == begun[3:]
    assert await all_of(*(work(n) for n in (1, 0, 1)), at_once=1) == [1, 0, 1]
