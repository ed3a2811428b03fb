"""Copies for the canary: they arrive, they are marked, and no client notices anything of them."""

from __future__ import annotations

import asyncio
import json
import math
import time

from tests.router.backends import CHAT, backends
from tests.router.conftest import Load, Pod, eventually, state


async def test_copies_arrive_and_are_marked(pod: Pod) -> None:
    async with backends("a", "b") as (a, b):
        await pod.told(state("r1", "r2", mirror=100, of={"r1": [a], "r2": [b]}))
        text = "Grüße " * 1000
        body = json.dumps({"messages": text, "test": {}}).encode()
        headers = {"Authorization": "Bearer key", "X-Tunesmith-Mirror": "1"}
        headers["X-Tunesmith-Analysis"] = "a token"
        async with pod.client.post(pod.url + CHAT + "?a=b", data=body, headers=headers) as answer:
            assert await answer.text() == "a"
        await eventually(lambda: b.requests)
        (original, sent), (copy, copied) = a.requests[0], b.requests[0]
        assert sent == copied == body
        # No client can pass itself off as a copy.
        assert "x-tunesmith-mirror" not in original
        # Nor for the operator, who asks past the router.
        assert not {"x-tunesmith-analysis"} & (set(original) | set(copy))
        assert copy["x-tunesmith-mirror"] == "1"
        assert "x-tunesmith-target" not in copy
        assert copy["authorization"] == "Bearer key"
        # Only questions are copied; feedback would be written down twice.
        await pod.ask("/api/v1/feedback")
        await asyncio.sleep(0.2)
        assert len(b.requests) == 1


async def test_the_share_of_copies_is_exact(pod: Pod) -> None:
    async with backends("a", "b") as (a, b):
        await pod.told(state("r1", "r2", mirror=25, of={"r1": [a], "r2": [b]}))
        count = 400
        assert await pod.ask_many(count, at_once=4) == {(200, "a"): count}
        bound = 4 * math.sqrt(count * 0.25 * 0.75)
        # Copies are sent beside the answers; the last ones come a moment later.
        await eventually(lambda: len(b.requests) > count * 0.25 - bound)
        await asyncio.sleep(0.3)
        assert len(b.requests) < count * 0.25 + bound


async def test_large_bodies_are_not_copied_and_come_whole(pod: Pod) -> None:
    async with backends("a", "b") as (a, b):
        await pod.told(state("r1", "r2", mirror=100, of={"r1": [a], "r2": [b]}))
        sizes = (40_000, 60_000, 1_000_000)
        for size in sizes:
            async with pod.client.post(
                pod.url + CHAT, json={"text": "x" * size, "test": {}}
            ) as answer:
                assert await answer.text() == "a"
        await eventually(lambda: b.requests)
        await asyncio.sleep(0.2)
        assert [len(body) > size for (_, body), size in zip(a.requests, sizes, strict=True)] == [
            True
        ] * 3
        assert [len(body) // 10_000 for _, body in b.requests] == [4]


async def test_a_slow_canary_delays_nobody_and_copies_are_bounded(pod: Pod) -> None:
    async with backends("a", "b") as (a, b):
        await pod.told(state("r1", "r2", mirror=100, of={"r1": [a], "r2": [b]}))
        # Until HAProxy gives its copies up.
        b.slowness = 60
        began = time.monotonic()
        answers = await asyncio.gather(*(pod.ask() for _ in range(2 * pod.settings.max_mirrors)))
        took = time.monotonic() - began
        assert set(answers) == {(200, "a")}
        assert took < 2 * pod.settings.server_timeout_seconds
        await eventually(lambda: b.requests)
        assert 1 <= len(b.requests) <= pod.settings.max_mirrors


async def test_a_canary_that_is_down_or_fails_hurts_nobody(pod: Pod) -> None:
    async with backends("a", "b") as (a, b):
        of = {"r1": [a], "r2": [b]}
        await pod.told(state("r1", "r2", mirror=100, of=of))
        b.fails = True
        async with Load(pod, clients=3) as load:
            await load.newer(30)
            await b.stop()
            await load.newer(30)
            await eventually(lambda: is_down(pod))
        assert load.problems == []
        requests, errors, consecutive, up = await pod.counts("r2")
        # Copies answer no client, but that they failed is known of the revision.
        assert (requests, errors, up) == (0, 0, 0)
        assert consecutive > 5
        assert (await pod.counts("r1"))[1:3] == (0, 0)


async def is_down(pod: Pod) -> bool:
    """Whether no endpoint of the canary is up, and its failures are counted."""
    _, _, consecutive, up = await pod.counts("r2")
    return consecutive > 5 and up == 0
