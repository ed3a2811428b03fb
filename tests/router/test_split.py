"""Where requests go: the split, its changes under load, sticky conversations."""

from __future__ import annotations

import asyncio
import math
from collections import Counter

from tests.router.backends import backends
from tests.router.conftest import Load, Pod, state


async def test_the_split_is_exact(pod: Pod) -> None:
    async with backends("a", "b") as (a, b):
        report = await pod.told(state("r1", "r2", 20, of={"r1": [a], "r2": [b]}))
        assert report.split is not None
        assert (report.split.main, report.split.canary, report.split.weight) == ("r1", "r2", 20)
        count = 800
        answers = await pod.ask_many(count)
        assert set(answers) == {(200, "a"), (200, "b")}
        # Four standard deviations of a binomial: once in 16 000 runs.
        bound = 4 * math.sqrt(count * 0.2 * 0.8)
        assert abs(answers[200, "b"] - count * 0.2) < bound
        for weight, expected in ((0, {(200, "a")}), (100, {(200, "b")})):
            await pod.told(state("r1", "r2", weight, of={"r1": [a], "r2": [b]}))
            assert set(await pod.ask_many(60)) == expected


async def test_a_new_weight_takes_effect_at_once_and_fails_no_request(pod: Pod) -> None:
    async with backends("a", "b") as (a, b):
        of = {"r1": [a], "r2": [b]}
        await pod.told(state("r1", of=of))
        async with Load(pod, delay=0.005) as load:
            assert await load.newer() == {"a"}
            await pod.told(state("r1", "r2", 100, of=of))
            # Not only soon: the next request that is sent.
            assert await load.newer() == {"b"}
            await pod.told(state("r1", of=of))
            assert await load.newer() == {"a"}
        assert load.problems == []


async def test_a_conversation_stays_with_its_revision(pod: Pod) -> None:
    async with backends("a", "b") as (a, b):
        of = {"r1": [a], "r2": [b]}
        values = [f"conversation-{n}" for n in range(120)]

        async def homes(weight: int, canary: str = "r2") -> dict[str, str]:
            await pod.told(state("r1", canary, weight, of=of, sticky="X-Conversation-Id"))
            asked = (pod.ask(headers={"x-conversation-id": value}) for value in values)
            answers = await asyncio.gather(*asked)
            return {value: text for value, (_, text) in zip(values, answers, strict=True)}

        ten, forty = await homes(10), await homes(40)
        # The share of 120 values is a binomial too.
        assert 2 <= Counter(ten.values())["b"] <= 26
        assert 27 <= Counter(forty.values())["b"] <= 70
        assert [v for v in values if ten[v] == "b" and forty[v] == "a"] == []
        assert await homes(10) == ten
        # Another header is no conversation.
        answers = await pod.ask_many(60, headers={"x-other": "the same"})
        assert len(answers) == 2
        # The next canary is tried by others.
        of["r3"] = of.pop("r2")
        assert await homes(40, "r3") != forty


async def test_a_revision_without_endpoints_is_stood_in_for(pod: Pod) -> None:
    async with backends("a", "b") as (a, b):
        of = {"r1": [a], "r2": [b]}
        await pod.told(state("r1", "r2", 50, of=of))
        await pod.told(state("r1", "r2", 50, of=of | {"r2": []}))
        assert set(await pod.ask_many(60)) == {(200, "a")}
        await pod.told(state("r1", "r2", 50, of=of | {"r1": []}))
        assert set(await pod.ask_many(60)) == {(200, "b")}
        # But not by a canary that was granted nothing.
        await pod.told(state("r1", "r2", 0, of=of | {"r1": []}))
        status, _ = await pod.ask()
        assert status == 503
