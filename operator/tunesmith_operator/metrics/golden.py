"""Golden prompts: asks a revision questions with known answers, and says how right it was.

Asked are the pods' own sidecars, with a token that stands for a client's key and keeps the
questions out of what is counted. A wrong answer is the revision's; one that could not be had is
nobody's, and gives no value. Called by ``sampling``.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean

import aiohttp
from pydantic import BaseModel, Field, ValidationError

from tunesmith_api.analysis import GoldenPrompts, PromptMatch
from tunesmith_operator.fetching import Unanswerable, Unanswered, fetch
from tunesmith_operator.metrics import judge, matching
from tunesmith_operator.metrics.completions import Broken, Busy, KeyAsked, complete
from tunesmith_operator.metrics.patterns import search_all
from tunesmith_operator.metrics.scraping import MeasuredPod
from tunesmith_operator.metrics.together import all_of

ANALYSIS_HEADER = "x-tunesmith-analysis"
_AT_ONCE = 2
_SHORTEST_SECONDS, _LONGEST_SECONDS = 10.0, 60.0
_BUSY_PAUSE_SECONDS = 1.0
_READY_SECONDS = 2.0
_PODS_TRIED = 3


class Question(BaseModel):
    """One line of the ConfigMap."""

    prompt: str = Field(min_length=1, max_length=100_000)
    answer: str = Field(min_length=1, max_length=100_000)


@dataclass(frozen=True, slots=True)
class Asked:
    """Whom to ask."""

    pods: Sequence[MeasuredPod]
    model: str
    """Model to name to the engine; empty for engines with just one."""
    token: str = field(repr=False)
    """What the sidecars know the questions by."""
    excuses_ends: bool = False
    """Whether it is another revision that ends the engine, with whatever is being answered."""


def parse_prompts(text: str, limit: int) -> list[Question]:
    """Read the first questions. Raises Unanswerable, naming the line that is wrong."""
    questions = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            questions.append(Question.model_validate_json(line))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"]))
            what = f"{where}: {first['msg']}" if where else first["msg"]
            raise Unanswerable(f"line {number} of the prompts: {what}") from error
    if not questions:
        raise Unanswerable("there are no prompts")
    return questions[:limit]


def time_for(interval_seconds: int) -> float:
    """Give the time that all questions of a sample may take together."""
    return min(max(interval_seconds, _SHORTEST_SECONDS), _LONGEST_SECONDS)


async def examine(
    session: aiohttp.ClientSession,
    golden: GoldenPrompts,
    questions: Sequence[Question],
    asked: Asked,
    seconds: float,
) -> float:
    """Give the mean score of a revision's answers, from 0 to 1. Raises Unanswered."""
    try:
        async with asyncio.timeout(seconds):
            pod = await _find_ready(session, asked.pods)
            answers = await all_of(
                *(
                    _answer(
                        session, pod, asked, q.prompt, max_tokens=golden.max_tokens, seconds=seconds
                    )
                    for q in questions
                ),
                at_once=_AT_ONCE,
            )
            if asked.excuses_ends and None in answers:
                raise Unanswered("the engine ended while it was asked")
            pairs = [(q, given) for q, given in zip(questions, answers, strict=True) if given]
            scores = await _score(session, golden, pairs, seconds) if pairs else []
    except TimeoutError as error:
        raise Unanswered(
            f"{len(questions)} prompts took longer than {seconds:g} s; fewer fit"
        ) from error
    # No text is a wrong answer, whatever is asked for.
    return fmean([*scores, *(0.0 for _ in range(len(questions) - len(scores)))])


async def _find_ready(session: aiohttp.ClientSession, pods: Sequence[MeasuredPod]) -> MeasuredPod:
    trouble = "there is no pod"
    for pod in pods[:_PODS_TRIED]:
        url = pod.url("/readyz")
        try:
            answer = await fetch(session, "GET", url, seconds=_READY_SECONDS, limit_bytes=4096)
        except Unanswered as error:
            trouble = str(error)
            continue
        if answer.status == 200:
            return pod
        trouble = answer.body.decode("utf-8", "replace")[:100]
    raise Unanswered(f"no pod is ready to be asked: {trouble}")


async def _answer(
    session: aiohttp.ClientSession,
    pod: MeasuredPod,
    asked: Asked,
    prompt: str,
    *,
    max_tokens: int,
    seconds: float,
) -> str | None:
    """Ask one question; gives None where the engine was asked and failed."""
    headers = {ANALYSIS_HEADER: asked.token}
    messages = [{"role": "user", "content": prompt}]
    url = pod.url("/v1")
    while True:
        try:
            return await complete(
                session,
                url,
                messages,
                model=asked.model,
                max_tokens=max_tokens,
                seconds=seconds,
                headers=headers,
            )
        except Busy:
            # Clients go first; the time for all ends this.
            await asyncio.sleep(_BUSY_PAUSE_SECONDS)
        except Broken:
            return None


async def _score(
    session: aiohttp.ClientSession,
    golden: GoldenPrompts,
    pairs: Sequence[tuple[Question, str]],
    seconds: float,
) -> list[float]:
    texts = [(question.answer, given) for question, given in pairs]
    match golden.match:
        case PromptMatch.EXACT:
            return [float(matching.is_equal(*pair)) for pair in texts]
        case PromptMatch.CONTAINS:
            return [float(matching.contains(*pair)) for pair in texts]
        case PromptMatch.REGEX:
            return [float(found) for found in await search_all(texts)]
        case PromptMatch.SIMILARITY:
            # Long texts take long enough to be felt by everything else on the loop.
            return await asyncio.to_thread(lambda: [matching.similarity(*pair) for pair in texts])
        case PromptMatch.JUDGE:
            return await _ask_judge(session, golden, pairs, seconds)


async def _ask_judge(
    session: aiohttp.ClientSession,
    golden: GoldenPrompts,
    pairs: Sequence[tuple[Question, str]],
    seconds: float,
) -> list[float]:
    if golden.judge is None:
        raise Unanswered("match Judge needs judge")
    questions = (
        judge.score(
            session,
            golden.judge,
            question=question.prompt,
            wanted=question.answer,
            given=given,
            seconds=seconds,
        )
        for question, given in pairs
    )
    try:
        return await all_of(*questions, at_once=_AT_ONCE)
    except KeyAsked as error:
        raise Unanswerable(
            f"the judge: {error}. It is asked without a key: let it take the operator's questions"
            " so, or name a proxy that adds the key"
        ) from error
    except Unanswered as error:
        raise Unanswered(f"the judge: {error}") from error
