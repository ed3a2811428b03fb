"""Rows from a generator's answers: what it is asked, what of its answers is taken. Pure.

Rows come from training rows alone and are compared with all others, so nothing held out is
learned through them (self-instruct, Wang et al. 2023, arXiv:2212.10560, has the idea). Called by
``gathering`` and ``generating``.
"""

import random
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson
from jinja2 import StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tunesmith_api.cleaning import Clean, Deduplication
from tunesmith_api.dataset import Dataset
from tunesmith_api.synthetic import Synthetic
from tunesmith_trainer.data.chatlog import ChatLog
from tunesmith_trainer.data.cleaning import Cleaner
from tunesmith_trainer.data.formats import check_messages
from tunesmith_trainer.data.judging import quality
from tunesmith_trainer.data.keys import as_keys, ordered
from tunesmith_trainer.data.prompting import template_errors
from tunesmith_trainer.data.reading import Row
from tunesmith_trainer.data.repeats import Repeats
from tunesmith_trainer.data.scratch import Scratch
from tunesmith_trainer.data.tally import Reason, Tally, content_key
from tunesmith_trainer.data.texts import said_texts
from tunesmith_trainer.data.values import Malformed

_OBJECT = re.compile(r"\{.*\}", re.DOTALL)


def generator_prompts(synthetic: Synthetic, train: Sequence[Row], scratch: Scratch) -> list[str]:
    """Give what the generator is asked, once a sample. Raises UserError (TemplateInvalid)."""
    environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, autoescape=False)
    # Places on the disk: there may be more rows than memory holds.
    keys = as_keys(map(content_key, train), scratch)
    column = scratch.column(np.int32)
    for place in ordered((keys[:, 0], keys[:, 1]), scratch):
        if _pair(train[place].content):
            column.add(int(place))
    shown = column.array().data
    count = min(synthetic.examples, len(shown))
    asked = []
    with template_errors("dataset.synthetic.prompts"):
        templates = [environment.from_string(text) for text in synthetic.prompts]
        for number in range(synthetic.samples):
            # A generator of its own for each sample: more samples leave the first ones as they are.
            drawn = random.Random(f"{synthetic.seed} {number}").sample(shown, count)  # noqa: S311
            examples = [_pair(train[place].content) for place in drawn]
            asked.append(templates[number % len(templates)].render(examples=examples))
    return asked


def synthetic_rows(
    answers: Sequence[str],
    dataset: Dataset,
    others: Sequence[Sequence[Row]],
    tally: Tally,
    scratch: Scratch,
) -> list[Row]:
    """Give the rows in a generator's answers that are worth training on.

    What cannot be read is left out; the rest is cleaned as other rows are, and dropped where it is
    like a row of one of the `others` or like a synthetic row before it.
    """
    synthetic = dataset.synthetic
    if synthetic is None:
        return []
    origin = synthetic.generator.uri or synthetic.generator.url or ""
    chat = ChatLog(dataset.speakers)
    read = [
        Row(content, f"synthetic:{origin}", number)
        for number, answer in enumerate(answers, 1)
        if (content := parse_answer(answer, chat))
    ]
    lowest = float(synthetic.min_quality)
    good = []
    for row in Cleaner(dataset.clean, tally, scratch).clean(read):
        if quality("\n".join(said_texts(row.content))) < lowest:
            tally.drop(Reason.QUALITY, row)
        else:
            good.append(row)
    clean: Clean = dataset.clean.model_copy(update={"deduplicate": Deduplication.NEAR})
    # With a tally of its own: the others' repeats are counted already.
    kept = Repeats(clean, Tally(), scratch).resolve([*others, good])[-1].rows
    lines = {row.line for row in kept}
    for row in good:
        if row.line not in lines:
            tally.drop(Reason.NEAR_DUPLICATE, row)
    return list(kept)


def parse_answer(answer: str, chat: ChatLog) -> bytes | None:
    """Give the row in an answer: a JSON object somewhere in it, or lines of a chat."""
    try:
        if found := _OBJECT.search(answer):
            value: Any = orjson.loads(found[0])
            prompt, response = value["prompt"], value["response"]
            if not (isinstance(prompt, str) and isinstance(response, str)):
                return None
            turns = [("user", prompt), ("assistant", response)]
            messages = [{"role": role, "content": text.strip()} for role, text in turns]
            return orjson.dumps(check_messages(messages))
        messages = list(chat.messages(answer))
        return orjson.dumps(messages) if messages[-1]["role"] == "assistant" else None
    except (Malformed, ValueError, KeyError, TypeError, IndexError):
        return None


def _pair(content: bytes) -> dict[str, str] | None:
    """Give the first question of a row and its answer."""
    row = orjson.loads(content)
    if not isinstance(row, list):
        return None
    turns = [turn for turn in row if turn["role"] != "system"]
    if [turn["role"] for turn in turns[:2]] != ["user", "assistant"]:
        return None
    return {"prompt": turns[0]["content"], "response": turns[1]["content"]}
