"""Rows that a generator writes: from a real endpoint's answers, from a model run here."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.conftest import Bucket, jsonl, pairs
from tests.trainer.openai_endpoint import Endpoint
from tunesmith_api.dataset import Speakers
from tunesmith_api.result import TrainerResult
from tunesmith_api.run import TrainingRun
from tunesmith_trainer.data.chatlog import ChatLog
from tunesmith_trainer.data.synthesis import parse_answer
from tunesmith_trainer.generating import generated_answers
from tunesmith_trainer.outcome import UserError
from tunesmith_trainer.prepare import prepare
from tunesmith_trainer.progress import Progress
from tunesmith_trainer.stopping import StopSignal
from tunesmith_trainer.storage import Storage

MakeRun = Callable[..., TrainingRun]
TOPICS = ("boats on the lake", "the price of bread", "how bees find flowers", "old clocks")


@pytest.fixture
def endpoint() -> Iterator[Callable[[list[str | int]], Endpoint]]:
    """Makes endpoints that give their answers over and over."""
    with ExitStack() as made:
        yield lambda answers: made.enter_context(Endpoint(cycle(answers)))


def row(prompt: str, response: str) -> str:
    return json.dumps({"prompt": prompt, "response": response})


def dataset(bucket: Bucket, generator: dict[str, Any], **settings: Any) -> dict[str, Any]:
    template = "{% for e in examples %}{{ e.prompt }}|{{ e.response }}\n{% endfor %}One more."
    synthetic = {"generator": generator, "prompts": [template], "samples": 8} | settings
    return {"train": {"uri": bucket.uri("data/train.jsonl")}, "synthetic": synthetic}


def do(run: TrainingRun, work: Path) -> TrainerResult:
    return prepare(run, work, Progress.of(run), StopSignal())


def test_new_rows_are_trained_on_and_held_out_or_known_ones_are_not(
    bucket: Bucket, make_run: MakeRun, tmp_path: Path, endpoint: Any
) -> None:
    rows = pairs(40)
    bucket.put("data/train.jsonl", jsonl(*rows))
    known = [row(r["prompt"], r["response"]) for r in rows]
    new = [row(f"Tell me about {t}.", f"Much is said about {t}.") for t in TOPICS]
    server = endpoint([*known, *new, "I cannot do that.", '{"prompt": 3}'])
    data = dataset(bucket, {"url": server.url, "model": "big"}, samples=46)
    plain = do(make_run(dataset={"train": data["train"]}, runUri=bucket.uri("p/")), tmp_path / "p")
    result = do(make_run(dataset=data), tmp_path / "work")
    assert plain.data is not None and result.data is not None
    assert result.data.rows.synthetic == len(new)
    assert result.data.rows.train == plain.data.rows.train + len(new)
    assert result.data.rows.test == plain.data.rows.test
    source = result.data.sources[-1]
    assert (source.format, source.rows) == ("Synthetic", len(new))
    assert len(server.asked) == 46
    assert server.asked[0].body["model"] == "big"
    shown = server.asked[0].body["messages"][0]["content"].splitlines()[:-1]
    assert len(shown) == 3
    assert set(shown) <= {f"{r['prompt']}|{r['response']}" for r in rows}


def test_a_later_attempt_uses_the_answers_of_the_one_before(
    bucket: Bucket, make_run: MakeRun, tmp_path: Path, endpoint: Any
) -> None:
    server = endpoint([503, row("A", "B"), 429])
    run = make_run(dataset=dataset(bucket, {"url": server.url, "model": "m"}))
    store = Storage.open(bucket.connection, "output")
    asked = ["first", "second"]

    def answers() -> list[str]:
        return generated_answers(
            run, asked, store, tmp_path, progress=Progress.of(run), stop=StopSignal()
        )

    assert answers() == [row("A", "B")] * 2
    count = len(server.asked)
    assert count > 2, "what fails in passing is asked again"
    assert answers() == [row("A", "B")] * 2
    assert len(server.asked) == count


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        pytest.param(401, "OPENAI_API_KEY", id="a refused key"),
        pytest.param(404, "Correct url or model", id="no such model"),
        pytest.param("Sorry!", "became a row", id="answers that are no rows"),
    ],
)
def test_a_wrong_generator_is_said_with_what_to_change(
    bucket: Bucket, make_run: MakeRun, tmp_path: Path, endpoint: Any, answer: Any, words: str
) -> None:
    bucket.put("data/train.jsonl", jsonl(*pairs(20)))
    run = make_run(dataset=dataset(bucket, {"url": endpoint([answer]).url, "model": "m"}))
    with pytest.raises(UserError, match=words):
        do(run, tmp_path / "work")


def test_a_model_run_here_says_the_same_for_the_same_seed(
    bucket: Bucket, make_run: MakeRun, tmp_path: Path
) -> None:
    store = Storage.open(bucket.connection, "output")

    def answers(name: str, seed: int) -> list[str]:
        settings = {"maxNewTokens": 12, "seed": seed}
        data = dataset(bucket, {"uri": "builtin://tiny"}, **settings)
        run = make_run(dataset=data, runUri=bucket.uri(f"runs/{name}/"))
        work = tmp_path / name
        return generated_answers(
            run, ["a", "a"], store, work, progress=Progress.of(run), stop=StopSignal()
        )

    first = answers("one", 1)
    assert first == answers("two", 1)
    assert first != answers("three", 2)
    assert first[0] != first[1]


@pytest.mark.parametrize(
    ("answer", "taken"),
    [
        pytest.param('Sure:\n```json\n{"prompt": " A ", "response": "B"}\n```', True, id="JSON"),
        pytest.param("User: A\nAssistant: B", True, id="a chat"),
        pytest.param("User: A", False, id="no answer"),
        pytest.param("", False, id="nothing"),
        pytest.param('{"prompt": "A"}', False, id="no response"),
        pytest.param('{"prompt": "A", ', False, id="cut off"),
    ],
)
def test_answers_are_read(answer: str, taken: bool) -> None:
    content = parse_answer(answer, ChatLog(Speakers()))
    if not taken:
        assert content is None
        return
    assert content is not None
    assert [(m["role"], m["content"]) for m in json.loads(content)] == [
        ("user", "A"),
        ("assistant", "B"),
    ]
