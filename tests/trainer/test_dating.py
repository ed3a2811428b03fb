"""Chat templates that show today's date show the same one on every day."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime, time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers.utils import chat_template_utils

from tests.trainer.conftest import Bucket, jsonl, pairs
from tests.trainer.test_templates import ONE, TWO, WITH_SYSTEM, dataset, real
from tunesmith_api.run import TrainingRun
from tunesmith_trainer.data.dating import TEMPLATE_DATE, date_shown, dated
from tunesmith_trainer.data.prepared import Split
from tunesmith_trainer.data.templates import Rendered, Renderer, load_tokenizer
from tunesmith_trainer.prepare import prepare
from tunesmith_trainer.progress import Progress
from tunesmith_trainer.stopping import StopSignal
from tunesmith_trainer.suites.questions import load_questions
from tunesmith_trainer.tiny import write_tiny

NO_ROWS = Split(np.zeros(0, np.int32), np.zeros(1, np.int64), np.zeros(0, np.uint8))
SAYS_DAY = (
    "\n  {% set day = strftime_now('%d %b %Y') %}<{{ day }}>{% macro hour() %}"
    "{{ strftime_now('%H:%M 100%% %-d.%-m. day %j') }}{% endmacro %}{{ hour() }}"
    "{% for m in messages %}{{ m.role }}:{{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


def a_day(day: date) -> type[datetime]:
    class Then(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Then:
            return cls.combine(day, time.min)

    return Then


@pytest.fixture
def tokenizer(tmp_path: Path) -> Any:
    write_tiny(tmp_path / "tiny")
    return load_tokenizer(tmp_path / "tiny", dataset())


def shown(tokenizer: Any, conversation: list[dict[str, Any]]) -> str:
    (rendered,) = Renderer(tokenizer).render([conversation])
    assert isinstance(rendered, Rendered), rendered
    return rendered.text


@pytest.mark.parametrize("conversation", [ONE, TWO, WITH_SYSTEM], ids=["one", "two", "system"])
def test_llama_3_2_shows_the_same_day_whenever_it_is_rendered(
    tokenizer: Any, conversation: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer.chat_template = real("llama3_2")
    # The template takes this from the caller, too: so all but the day is as transformers has it.
    wanted = tokenizer.apply_chat_template(conversation, tokenize=False, date_string="26 Jul 2024")
    for day in (date(2031, 1, 2), date(2031, 12, 24)):
        monkeypatch.setattr(chat_template_utils, "datetime", a_day(day))
        assert shown(tokenizer, conversation) == wanted
    # Whoever serves the model shows the real day.
    assert "24 Dec 2031" in tokenizer.apply_chat_template(conversation, tokenize=False)
    assert date_shown(tokenizer) == "2024-07-26"


def test_a_template_shows_the_fixed_day_as_it_would_any_other(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer.chat_template = SAYS_DAY
    with monkeypatch.context() as patch:
        patch.setattr(chat_template_utils, "datetime", a_day(TEMPLATE_DATE))
        wanted = tokenizer.apply_chat_template(TWO, tokenize=False)
    assert "<26 Jul 2024>00:00 100% 26.7. day 208" in wanted
    assert shown(tokenizer, TWO) == wanted


@pytest.mark.parametrize("name", ["llama3_1", "qwen3", "gemma3", "smollm2"])
def test_a_template_without_a_day_is_left_as_it_is(tokenizer: Any, name: str) -> None:
    tokenizer.chat_template = real(name)
    assert (dated(tokenizer), date_shown(tokenizer)) == ({}, "")


def test_the_day_is_told_and_questions_show_the_same(
    bucket: Bucket,
    make_run: Callable[..., TrainingRun],
    tokenizer: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(chat_template_utils, "datetime", a_day(date(2031, 12, 24)))
    uri = bucket.put("data/train.jsonl", jsonl(*pairs(20)))
    data = {"train": {"uri": uri}, "template": "Custom", "customTemplate": SAYS_DAY}
    suites = [{"name": "ask", "samples": {"prompts": ["Why?"]}}]
    run = make_run(dataset=data, evaluation={"suites": suites, "gates": [], "allowUngated": True})
    result = prepare(run, tmp_path / "work", Progress.of(run), StopSignal())
    assert result.data is not None
    assert result.data.template_date == "2024-07-26"
    tokenizer.chat_template = SAYS_DAY
    asked = load_questions(run, NO_ROWS, tokenizer, StopSignal())
    assert "<26 Jul 2024>" in tokenizer.decode(asked["ask"][0].tokens)
