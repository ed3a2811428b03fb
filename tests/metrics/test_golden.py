"""Golden prompts: what is asked, when an answer is right, and what is nobody's fault."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest
from aiohttp import web

from tests.metrics.conftest import NOW, STABLE, Begin, Scholar, Serve, analysis, measured, pod, take
from tests.sidecar.conftest import eventually
from tunesmith_operator.fetching import Unanswered
from tunesmith_operator.metrics import golden, patterns
from tunesmith_operator.metrics.judge import read_score
from tunesmith_operator.metrics.matching import contains, is_equal, similarity
from tunesmith_operator.metrics.patterns import search_all
from tunesmith_operator.metrics.sampling import PromptsError, Sampler
from tunesmith_operator.planning.serving import MetricSample

COMPARED = {"comparedWith": "Stable", "maxRegressionPercent": 20}


def lines(*pairs: tuple[str, str]) -> str:
    return "\n".join(json.dumps({"prompt": p, "answer": a}) for p, a in pairs) + "\n\n"


def asking(match: str, *, compared: bool = False, interval: int = 30, **more: Any) -> Any:
    prompts = {"configMapRef": {"name": "golden"}, "match": match, **more}
    metric = {"goldenPrompts": prompts, "min": "0.5", **(COMPARED if compared else {})}
    return analysis(metric, intervalSeconds=interval)


QUESTIONS = lines(("Capital of France?", "Paris"), ("2+2?", "4"))


@pytest.mark.parametrize(
    ("match", "wanted", "said", "value"),
    [
        pytest.param("Exact", "a  b\n", " a b", "1", id="exact but for white space"),
        pytest.param("Exact", "a b", "A b", "0", id="exact minds the case"),
        pytest.param("Contains", "paris", "It is  PARIS.", "1", id="contains does not"),
        pytest.param("Contains", "new york", "In New\nYork", "1", id="nor white space"),
        pytest.param("Contains", "Paris", "London", "0", id="contains it not"),
        pytest.param("Regex", r"^\d{3}$", "123", "1", id="a pattern is found"),
        pytest.param("Regex", r"^\d{3}$", "1234", "0", id="a pattern is not found"),
        pytest.param("Similarity", "the cat", "the cat", "1", id="the same"),
        pytest.param("Similarity", "abc", "xyz", "0", id="nothing alike"),
        pytest.param("Contains", "x", "", "0", id="no text is wrong"),
        pytest.param("Regex", ".*", "", "0", id="no text is wrong even for a pattern"),
    ],
)
async def test_an_answer_is_right_or_not(
    begin: Begin,
    sampler: Sampler,
    engine: Scholar,
    match: str,
    wanted: str,
    said: str,
    value: str,
) -> None:
    serving = await begin()
    engine.answers["Well?"] = said
    text = lines(("Well?", wanted))
    sample = await take(sampler, asking(match), measured(pod(serving.url)), m0=text)
    assert sample == MetricSample("m0", value)


async def test_what_is_asked(begin: Begin, sampler: Sampler, engine: Scholar) -> None:
    serving = await begin(api_key="secret")
    engine.answers |= {"Capital of France?": "Paris!", "2+2?": "5"}
    canary = measured(pod(serving.url), model="chat")
    assert (await take(sampler, asking("Contains"), canary, m0=QUESTIONS)).value == "0.5"
    bodies = [json.loads(body) for path, _, body in engine.requests if path.endswith("completions")]
    assert bodies[0] == {
        "messages": [{"role": "user", "content": "Capital of France?"}],
        "temperature": 0,
        "max_tokens": 128,
        "model": "chat",
    }
    assert len(bodies) == 2
    # Clients' metrics know nothing of it.
    assert (await take(sampler, analysis(), canary)).requests == 0
    assert canary.token
    assert canary.token not in repr(canary)
    # With another installation's token it is nobody's wrong answer.
    stranger = measured(pod(serving.url), token="another")
    refused = await take(sampler, asking("Contains"), stranger, m0=QUESTIONS)
    assert "HTTP 401" in refused.error
    assert refused.value == ""


async def test_only_the_first_prompts_are_asked(
    begin: Begin, sampler: Sampler, engine: Scholar
) -> None:
    serving = await begin()
    engine.answers |= {str(n): str(n) for n in range(3)}
    text = lines(*((str(n), str(n)) for n in range(9)))
    wanted = asking("Exact", maxPrompts=3)
    assert (await take(sampler, wanted, measured(pod(serving.url)), m0=text)).value == "1"
    assert len([r for r in engine.requests if r[0].endswith("completions")]) == 3


async def test_stable_is_asked_too(begin: Begin, sampler: Sampler, engine: Scholar) -> None:
    engine.answers |= {"Capital of France?": "Paris", "2+2?": "5"}
    new, old = await begin(), await begin(STABLE)
    wanted = asking("Exact", compared=True)
    canary, stable = measured(pod(new.url)), measured(pod(old.url), name=STABLE)
    sample = await take(sampler, wanted, canary, stable, m0=QUESTIONS)
    assert sample == MetricSample("m0", "0.5", "0.5")
    gone = measured(pod("http://127.0.0.1:9"), name=STABLE)
    assert await take(sampler, wanted, canary, gone, m0=QUESTIONS) == MetricSample("m0", "0.5")


@pytest.mark.parametrize(
    ("text", "error"),
    [
        pytest.param('{"prompt": "a", "answer": "b"}\nno\n', "line 2 of the prompts", id="no JSON"),
        pytest.param('\n{"prompt": "a"}', "line 2 of the prompts: answer", id="no answer"),
        pytest.param('{"prompt": "", "answer": "b"}', "line 1 of the prompts: prompt", id="empty"),
        pytest.param('{"prompt": 5, "answer": "b"}', "line 1 of the prompts: prompt", id="number"),
        pytest.param("\n \n", "there are no prompts", id="nothing"),
        pytest.param(PromptsError("no ConfigMap golden"), "no ConfigMap golden", id="missing"),
        pytest.param(None, "its prompts were not read", id="not given"),
    ],
)
async def test_prompts_that_cannot_be_used_say_why(
    begin: Begin, sampler: Sampler, text: Any, error: str
) -> None:
    serving = await begin()
    given = {} if text is None else {"m0": text}
    sample = await take(sampler, asking("Exact"), measured(pod(serving.url)), **given)
    assert error in sample.error
    assert sample.needs_change == (text is not None), "waiting helps where they were not read"


@pytest.mark.parametrize(
    ("status", "value", "error"),
    [
        pytest.param(500, "0", "", id="an engine that fails has not answered"),
        pytest.param(400, "", "HTTP 400", id="a question it does not take"),
    ],
)
async def test_an_engines_errors(
    begin: Begin, sampler: Sampler, engine: Scholar, status: int, value: str, error: str
) -> None:
    serving = await begin()
    engine.status = status
    sample = await take(sampler, asking("Exact"), measured(pod(serving.url)), m0=QUESTIONS)
    assert sample.value == value
    assert error in sample.error


async def test_an_engine_that_stable_ends_gives_no_value_rather_than_wrong_answers(
    begin: Begin, sampler: Sampler, engine: Scholar
) -> None:
    serving = await begin()
    engine.answers |= {"Capital of France?": "Paris", "2+2?": "4"}
    canary, prompts = measured(pod(serving.url)), {"m0": QUESTIONS}

    async def look() -> MetricSample:
        taken = await sampler.take(asking("Exact"), canary, None, prompts, NOW, excuses_ends=True)
        return taken.samples[0]

    assert (await look()).value == "1"
    engine.status = 500
    sample = await look()
    assert (sample.value, sample.needs_change) == ("", False)
    assert sample.error == "the engine ended while it was asked"


async def test_a_busy_pod_is_asked_again(
    begin: Begin, sampler: Sampler, engine: Scholar, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(golden, "_BUSY_PAUSE_SECONDS", 0.05)
    serving = await begin()
    engine.answers |= {"Capital of France?": "Paris", "2+2?": "4"}
    engine.busy_next = 3
    sample = await take(sampler, asking("Exact"), measured(pod(serving.url)), m0=QUESTIONS)
    assert sample.value == "1"


async def test_a_pod_that_is_ready_is_found(
    begin: Begin, sampler: Sampler, engine: Scholar
) -> None:
    engine.answers |= {"Capital of France?": "Paris", "2+2?": "4"}
    loading = await begin(engine_url="http://127.0.0.1:9")
    serving = await begin()
    pods = (pod("http://127.0.0.1:9", "a"), pod(loading.url, "b"), pod(serving.url, "c"))
    assert (await take(sampler, asking("Exact"), measured(*pods), m0=QUESTIONS)).value == "1"
    sample = await take(sampler, asking("Exact"), measured(*pods[:2]), m0=QUESTIONS)
    assert "the engine does not answer" in sample.error
    assert (
        "there is no pod" in (await take(sampler, asking("Exact"), measured(), m0=QUESTIONS)).error
    )


async def test_slow_answers_end_with_the_time_for_all_and_stop_the_engine(
    serve: Serve, sampler: Sampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(golden, "_SHORTEST_SECONDS", 0.4)
    running = 0

    async def slow(request: web.Request) -> web.Response:
        nonlocal running
        if request.path == "/readyz":
            return web.Response()
        running += 1
        try:
            await asyncio.sleep(60)
        finally:
            running -= 1
        return web.Response()

    url = await serve(slow)
    started = time.monotonic()
    wanted = asking("Exact", interval=1)
    sample = await take(sampler, wanted, measured(pod(url)), m0=lines(*[("a", "b")] * 20))
    assert "20 prompts took longer than 1 s" in sample.error
    assert time.monotonic() - started < 30
    await eventually(lambda: running == 0)


async def test_a_bad_pattern_is_named(begin: Begin, sampler: Sampler, engine: Scholar) -> None:
    serving = await begin()
    engine.answers["a"] = "b"
    canary = measured(pod(serving.url))
    sample = await take(sampler, asking("Regex"), canary, m0=lines(("a", "(unclosed")))
    assert "the pattern '(unclosed' does not compile: missing )" in sample.error
    assert sample.needs_change


async def test_a_catastrophic_pattern_stops_neither_us_nor_the_others() -> None:
    beats = 0

    async def beat() -> None:
        nonlocal beats
        while True:
            await asyncio.sleep(0.01)
            beats += 1

    heart = asyncio.create_task(beat())
    with pytest.raises(Unanswered, match=r"the pattern '\(a\+\)\+\$' takes too long"):
        await search_all([("b", "abc"), ("(a+)+$", "a" * 50 + "b")])
    heart.cancel()
    # None at all while a pattern is searched for in this process.
    assert beats > 3


async def test_a_process_that_does_not_stop_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patterns, "_LONGEST_SECONDS", 0.3)
    monkeypatch.setattr("tunesmith_operator.metrics.patterns._PROGRAM", "/dev/stdin")
    with pytest.raises(Unanswered):
        await search_all([("a", "a")])
    slow = [("(a+)+$", "a" * 50 + "b")] * 3
    monkeypatch.undo()
    monkeypatch.setattr(patterns, "_LONGEST_SECONDS", 0.2)
    with pytest.raises(Unanswered, match="a pattern takes too long"):
        await search_all(slow)


async def test_a_pattern_that_is_too_large_is_an_error() -> None:
    with pytest.raises(Unanswered, match="is too large"):
        await search_all([("(" * 100_000 + ")" * 100_000, "a")])


@pytest.mark.parametrize(
    ("wanted", "given", "least", "most"),
    [
        # One to six characters: matches 4/5, 3/4, 2/3, 1/2, 0/1 each way; the mean of five.
        pytest.param("abcde", "abcdx", 0.5433, 0.5434, id="counted by hand"),
        pytest.param("4", "4", 1, 1, id="one character"),
        pytest.param("The cat sat.", "The  cat\nsat.", 1, 1, id="white space"),
        pytest.param("The cat sat on the mat.", "A cat sat on the mat.", 0.75, 0.95, id="near"),
        pytest.param("The cat sat on the mat.", "Dogs run in rain.", 0, 0.2, id="far"),
        pytest.param("a", "", 0, 0, id="nothing"),
    ],
)
def test_similarity(wanted: str, given: str, least: float, most: float) -> None:
    assert least <= similarity(wanted, given) <= most


def test_similarity_takes_time_by_length_alone() -> None:
    started = time.process_time()
    for _ in range(5):
        similarity("a" * 4096, "a" * 2000 + "ab" * 1000)
    assert time.process_time() - started < 2


def test_equal_and_contained() -> None:
    assert is_equal("a b", "a\n\tb ")
    assert not is_equal("a b", "ab")
    assert contains("STRASSE", "Straße 5")


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("0.8", 0.8),
        (" 1\n", 1),
        (".5", 0.5),
        ("Score: 0.75.", 0.75),
        ('{"score": 0.3, "reason": "1 of 2"}', 0.3),
        ('```json\n{"score": 1}\n```', 1),
        ("8/10", 0.8),
        ("I give it 4 out of 5", 0.8),
        ("<think>0.1? or 0.2?</think>0.9", 0.9),
        ("0.9, because 0.9 is right", 0.9),
        ("good", None),
        ("80%", None),
        ("1.5", None),
        ("-0.5", None),
        ("between 0.2 and 0.4", None),
        ("11/10", None),
        ("3/0", None),
        ('{"score": "high"}', None),
        ("", None),
    ],
)
def test_a_judges_words(text: str, score: float | None) -> None:
    assert read_score(text) == score


@pytest.mark.parametrize(
    ("said", "status", "value", "error"),
    [
        pytest.param("0.7", 200, "0.7", "", id="a score"),
        pytest.param("Hm.", 200, "", "the judge: it gave no score", id="no score"),
        pytest.param("0.7", 500, "", "the judge: HTTP 500", id="a judge that fails"),
        pytest.param("0.7", 401, "", "It is asked without a key", id="a judge that wants a key"),
        pytest.param("0.7", 403, "", "It is asked without a key", id="a judge that refuses"),
    ],
)
async def test_a_judge_scores(
    begin: Begin,
    serve: Serve,
    sampler: Sampler,
    engine: Scholar,
    said: str,
    status: int,
    value: str,
    error: str,
) -> None:
    asked: list[Any] = []

    async def grade(request: web.Request) -> web.Response:
        asked.append((request.path, await request.json(), request.headers))
        reply = {"choices": [{"message": {"content": said}}]}
        return web.json_response(reply, status=status)

    serving = await begin(api_key="secret")
    engine.answers |= {"Capital of France?": "It's Paris", "2+2?": "four"}
    judge = {"url": await serve(grade) + "/v1/", "model": "wise"}
    canary = measured(pod(serving.url))
    sample = await take(sampler, asking("Judge", judge=judge), canary, m0=QUESTIONS)
    assert sample.value == value
    assert error in sample.error
    # Only what nobody else will mend stalls the roll-out with what to change.
    assert sample.needs_change is (status in (401, 403))
    path, body, headers = asked[0]
    assert (path, body["model"], body["temperature"]) == ("/v1/chat/completions", "wise", 0)
    assert json.loads(body["messages"][1]["content"]) == {
        "question": "Capital of France?",
        "reference_answer": "Paris",
        "given_answer": "It's Paris",
    }
    # The revision's token is no matter of the judge's.
    names = {name.lower() for name in headers}
    assert not {"authorization", "x-tunesmith-analysis"} & names


async def test_golden_prompts_ask_no_metrics(serve: Serve, sampler: Sampler) -> None:
    paths: list[str] = []

    async def see(request: web.Request) -> web.Response:
        paths.append(request.path)
        return web.json_response({"choices": [{"message": {"content": "4"}}]})

    url = await serve(see)
    text = lines(("2+2?", "4"))
    await sampler.take(asking("Exact"), measured(pod(url)), None, {"m0": text}, NOW)
    assert paths == ["/readyz", "/v1/chat/completions"]
