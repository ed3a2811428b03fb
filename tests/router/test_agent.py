"""The agent: who may tell it what, what it keeps, what it says, how it ends."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.router.backends import backends
from tests.router.conftest import TOKEN, TOKEN_DIGEST, Load, Pod, eventually, free_port, state
from tunesmith_process.settings import SettingsError
from tunesmith_router.access import Access
from tunesmith_router.answers import BrokenFrame, split_frames
from tunesmith_router.main import main
from tunesmith_router.settings import PREFIX, Settings, parse_settings

ROOT = Path(__file__).resolve().parents[2]


async def test_nobody_without_the_token(pod: Pod) -> None:
    for token in ("", "wrong", TOKEN + "x"):
        status, _ = await pod.put(state("r1", of={"r1": []}), token=token)
        assert status == 401
    assert (await pod.get("/v1/state"))[0] == 401
    assert (await pod.report()).split is None


def test_the_token_is_known_by_its_digest_alone() -> None:
    access = Access(Settings(token_digest=TOKEN_DIGEST))
    assert access.allow(f"bearer {TOKEN}")
    for wrong in (None, TOKEN, f"Basic {TOKEN}", f"Bearer {TOKEN_DIGEST}"):
        assert not access.allow(wrong)


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        pytest.param("text", "body", id="no state"),
        pytest.param(state("r1"), "'r1' is not among revisions", id="main is no revision"),
        pytest.param(state("r1", "r2", 5, of={"r1": []}), "'r2' is not", id="nor is canary"),
        pytest.param(state("r1", weight=5, of={"r1": []}), "need a canary", id="no canary"),
        pytest.param(state("r1", "r1", 5, of={"r1": []}), "the same", id="both the same"),
        pytest.param(state("r1", "r2", 101, of={"r1": []}), "split.weight", id="too much"),
        pytest.param(state("R 1|", of={"r1": []}), "split.main", id="no name"),
        pytest.param(state("r1", of={"r1": []}, sticky="a b"), "stickyHeader", id="no header"),
        pytest.param(state("r1", of={"r1": []}, extra=1), "extra", id="unknown field"),
        pytest.param(
            state("r1")
            | {"revisions": [{"name": "r1", "endpoints": [{"address": "1.2", "port": 1}]}]},
            "not an IP address",
            id="no address",
        ),
        pytest.param(
            state("r1") | {"revisions": [{"name": "r1"}, {"name": "r1"}]}, "twice", id="twice"
        ),
    ],
)
async def test_a_bad_state_is_refused_with_a_reason(pod: Pod, wanted: Any, said: str) -> None:
    status, body = await pod.put(wanted)
    assert status == 400
    assert said in body["error"]["message"]


async def test_probes_and_metrics(pod: Pod) -> None:
    assert (await pod.get("/livez"))[0] == 200
    assert (await pod.get("/readyz")) == (503, "no state is in effect")
    async with backends("a", "b") as (a, b):
        await pod.told(state("r1", "r2", 25, of={"r1": [a], "r2": [b]}))
        assert (await pod.get("/readyz")) == (200, "ok")
        await pod.ask()
        await eventually(lambda: have_answered(pod, 1))
        _, text = await pod.get("/metrics")
    lines = set(text.splitlines())
    assert 'tunesmith_router_weight{revision="r1"} 75.0' in lines
    assert 'tunesmith_router_endpoints_up{revision="r2"} 1.0' in lines
    assert "tunesmith_router_haproxy_restarts_total 0.0" in lines
    answered = [f'tunesmith_router_requests_total{{revision="r{n}"}} 1.0' in lines for n in (1, 2)]
    assert sum(answered) == 1


async def test_an_agent_that_starts_again_goes_on(pod: Pod) -> None:
    async with backends("a", "b") as (a, b):
        wanted = state("r1", "r2", 50, of={"r1": [a], "r2": [b]})
        await pod.told(wanted)
        await pod.ask_many(50)
        await eventually(lambda: have_answered(pod, 50))
        await pod.stop_agent()
        async with Load(pod) as load:
            await load.newer(50)
            await pod.start_agent()
            await eventually(lambda: is_ready(pod))
            await load.newer()
        # Nobody noticed, and what was answered meanwhile is counted.
        assert load.problems == []
        total = 50 + len(load.answers)
        await eventually(lambda: have_answered(pod, total))
        report = await pod.told(wanted)
        assert sum(c.requests for c in report.counts) == total


async def test_a_disk_that_takes_nothing_holds_up_no_rollback(pod: Pod) -> None:
    async with backends("a", "b") as (a, b):
        of = {"r1": [a], "r2": [b]}
        await pod.told(state("r1", "r2", 50, of=of))
        # Where the draft of the file would be.
        draft = pod.settings.memory_file.with_suffix(".tmp")
        draft.mkdir()
        report = await pod.told(state("r1", of=of))
        draft.rmdir()
        assert report.split is not None
        assert (report.split.main, report.split.canary) == ("r1", None)
        assert set(await pod.ask_many(20)) == {(200, "a")}


async def is_ready(pod: Pod) -> bool:
    return (await pod.get("/readyz"))[0] == 200


async def is_unready(pod: Pod) -> bool:
    return (await pod.get("/readyz"))[0] == 503


async def have_answered(pod: Pod, requests: int) -> bool:
    """Whether so many answers of all revisions are counted."""
    return sum(counts.requests for counts in (await pod.report()).counts) == requests


async def test_a_haproxy_that_starts_again_is_told(pod: Pod) -> None:
    async with backends("a", "b") as (a, b):
        of = {"r1": [a], "r2": [b]}
        await pod.told(state("r1", "r2", 100, of=of, sticky="x-id"))
        await pod.ask_many(20)
        await eventually(lambda: have_answered(pod, 20))
        pod.kill_haproxy()
        await eventually(lambda: is_unready(pod))
        assert (await pod.report()).split is None
        status, body = await pod.put(state("r1", of=of))
        assert status == 503
        assert "does not answer" in body["error"]["message"]
        await pod.start_haproxy()
        await eventually(lambda: is_ready(pod))
        assert await pod.ask() == (200, "b")
        await eventually(lambda: have_answered(pod, 21))
        assert (await pod.counts("r2"))[0] == 21
        _, text = await pod.get("/metrics")
        assert "tunesmith_router_haproxy_restarts_total 1.0" in text


async def test_both_start_again(pod: Pod) -> None:
    async with backends("a") as (a,):
        await pod.told(state("r1", of={"r1": [a]}))
        await pod.stop_agent()
        pod.kill_haproxy()
        await pod.start_haproxy()
        await pod.start_agent()
        await eventually(lambda: is_ready(pod))
        assert await pod.ask() == (200, "a")


async def test_a_broken_memory_is_no_obstacle(pod: Pod) -> None:
    async with backends("a", "b") as (a, b):
        await pod.told(state("r1", of={"r1": [a]}))
        await pod.stop_agent()
        pod.settings.memory_file.write_text('{"state": ')
        async with Load(pod) as load:
            await pod.start_agent()
            assert (await pod.get("/readyz"))[0] == 503
            assert (await pod.report()).split is None
            assert await load.newer() == {"a"}
            await pod.told(state("r2", of={"r2": [b]}))
            assert await load.newer() == {"b"}
        assert load.problems == []


async def test_states_that_come_at_once_are_taken_one_by_one(pod: Pod) -> None:
    async with backends("a", "b") as (a, b):
        of = {"r1": [a], "r2": [b]}
        states = [state("r1", "r2", weight, of=of) for weight in range(0, 100, 10)]
        answers = await asyncio.gather(*(pod.put(wanted) for wanted in states))
        assert [status for status, _ in answers] == [200] * 10
        assert [body["split"]["weight"] for _, body in answers] == list(range(0, 100, 10))


async def test_many_endpoints(pod: Pod) -> None:
    async with backends("a") as (a,):
        # Nobody listens at the others.
        port = free_port()
        others = [{"address": f"127.0.1.{n}", "port": port} for n in range(1, 201)]
        wanted = state("r1", of={"r1": [a]})
        wanted["revisions"][0]["endpoints"] += others
        began = time.monotonic()
        report = await pod.told(wanted)
        # Waiting for each of them would take ten minutes.
        assert time.monotonic() - began < 200
        assert report.counts[0].endpoints_up == 1
        assert set(await pod.ask_many(50)) == {(200, "a")}


async def test_the_whole_program_drains(pod: Pod, tmp_path: Path) -> None:
    await pod.stop_agent()
    port = free_port()
    given = pod.settings.model_dump(exclude={"token_digest"})
    given |= {"agent_port": port, "token_digest": TOKEN_DIGEST, "drain_timeout_seconds": 20}
    variables = {PREFIX + name.upper(): str(value) for name, value in given.items()}
    environment = os.environ | variables | {"PYTHONPATH": str(ROOT / "operator")}
    pod.agent_url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "tunesmith_router"]
    with (tmp_path / "log").open("wb") as output:
        agent = subprocess.Popen(command, env=environment, stderr=output)  # noqa: ASYNC220
    try:
        # Another Python is started.
        await eventually(lambda: is_listening(port))
        async with backends("a") as (a,):
            await pod.told(state("r1", of={"r1": [a]}))
            stream = asyncio.create_task(pod.ask(tokens=5000, pause=0.02, endless=True))
            await eventually(lambda: a.running == 1)
            agent.send_signal(signal.SIGTERM)
            await eventually(lambda: is_draining(pod))
            # Not ready any more, but whoever still comes is served.
            assert await pod.ask() == (200, "a")
            assert pod.haproxy is not None
            pod.haproxy.send_signal(signal.SIGUSR1)
            # Both wait for the stream.
            assert (agent.poll(), pod.haproxy.poll()) == (None, None)
            a.released.set()
            status, text = await stream
            assert (status, text.endswith("\n\n")) == (200, True)
            assert await asyncio.to_thread(agent.wait, 60) == 0
            assert await asyncio.to_thread(pod.haproxy.wait, 60) == 0
    finally:
        agent.kill()
        agent.wait()
    said = [json.loads(line)["event"] for line in (tmp_path / "log").read_text().splitlines()]
    assert [word for word in said if "HAProxy" not in word] == ["serving", "draining", "drained"]
    await pod.start_haproxy()
    await pod.start_agent()


async def is_listening(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


async def is_draining(pod: Pod) -> bool:
    return await pod.get("/readyz") == (503, "draining")


def test_frames() -> None:
    whole = b"5 hello12 hello world!"
    for cut in range(len(whole) + 1):
        first, rest = split_frames(whole[:cut])
        second, rest = split_frames(rest + whole[cut:])
        assert first + second == [b"hello", b"hello world!"]
        assert rest == b""
    with pytest.raises(BrokenFrame):
        split_frames(b"no length")


def test_wrong_settings_end_the_program_with_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    for arguments, message in (
        (["--threads", "0"], "TUNESMITH_ROUTER_THREADS"),
        (["--folder", "relative"], "TUNESMITH_ROUTER_FOLDER"),
        (["agent"], "give token_digest"),
    ):
        monkeypatch.setattr(sys, "argv", ["tunesmith-router", *arguments])
        with pytest.raises(SystemExit, match=message):
            main()
    with pytest.raises(SettingsError, match="TUNESMITH_ROUTER_TYPO"):
        parse_settings({PREFIX + "TYPO": "1"}, [])
