"""Formats of rows: found by themselves, or said; what is malformed says what is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.trainer.reading_rows import HI, pair, reader
from tunesmith_api.dataset import DataFormat
from tunesmith_trainer.data.values import Malformed

SYSTEM = {"role": "system", "content": "Be kind."}
PREFERENCE = {"messages": HI[:1], "chosen": "Hello", "rejected": "What?"}


@pytest.mark.parametrize(
    ("value", "format_", "expected"),
    [
        pytest.param(
            {"instruction": "Hi", "input": "", "output": "Hello"}, "Alpaca", HI, id="Alpaca"
        ),
        pytest.param(
            {"instruction": "Greet", "input": "Ann", "output": "Hi Ann", "system": "Be kind."},
            "Alpaca",
            [SYSTEM, *pair("Greet\n\nAnn", "Hi Ann")],
            id="Alpaca with input and system",
        ),
        pytest.param(
            {
                "conversations": [
                    {"from": "human", "value": "Hi"},
                    {"from": "gpt", "value": "Hello"},
                ]
            },
            "ShareGPT",
            HI,
            id="ShareGPT",
        ),
        pytest.param(
            {
                "conversations": json.dumps(
                    [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
                ),
                "system": "Be kind.",
            },
            "ShareGPT",
            [SYSTEM, *HI],
            id="ShareGPT with OpenAI's names, as JSON in a cell of a table",
        ),
        pytest.param(
            {
                "query": "to Paris",
                "intent": "travel",
                "entities": [
                    {"value": "1", "entity": "day"},
                    {"value": "Paris", "entity": "city"},
                    {"text": "2", "label": "day"},
                ],
            },
            "Intent",
            pair(
                "to Paris",
                '{"intent":"travel","entities":{"city":"Paris","day":["1","2"]}}',
            ),
            id="an intent becomes canonical JSON",
        ),
        pytest.param(
            {"text": "to Paris", "intent": "travel"},
            "Intent",
            pair("to Paris", '{"intent":"travel","entities":{}}'),
            id="an intent with Rasa's name for the query",
        ),
        pytest.param(
            {"prompt": "Hi", "chosen": "Hello", "rejected": "What?"},
            "Preference",
            PREFERENCE,
            id="preference as text",
        ),
        pytest.param(
            {"system": "Be kind.", "prompt": "Hi", "chosen": "Hello", "rejected": "What?"},
            "Preference",
            {**PREFERENCE, "messages": [SYSTEM, *HI[:1]]},
            id="preference with a system message",
        ),
        pytest.param(
            {"system": "Be kind.", "prompt": "Hi", "response": "Hello"},
            "PromptResponse",
            [SYSTEM, *HI],
            id="a pair with a system message",
        ),
        pytest.param(
            {"messages": [{**SYSTEM, "content": None}, *HI], "tools": "[]", "images": []},
            "Messages",
            HI,
            id="a system message that is null",
        ),
        pytest.param(
            [
                {"role": "user", "content": [{"type": "input_text", "text": "H"}, "i"]},
                {"role": "assistant", "content": [{"type": "output_text", "text": "Hello"}]},
            ],
            "Messages",
            HI,
            id="parts of text by other names",
        ),
        pytest.param(
            {"conversations": [{"from": "system", "value": " "}, *HI], "system": "Be kind."},
            "ShareGPT",
            [SYSTEM, *HI],
            id="an empty system message among turns",
        ),
        pytest.param(
            {"prompt": [{**SYSTEM, "content": ""}, HI[0]], "chosen": "Hello", "rejected": "What?"},
            "Preference",
            PREFERENCE,
            id="an empty system message of a preference",
        ),
        pytest.param(
            {"prompt": HI[:1], "chosen": HI[1:], "rejected": pair("", "What?")[1:]},
            "Preference",
            PREFERENCE,
            id="preference as TRL's messages",
        ),
        pytest.param(
            {"chosen": HI, "rejected": pair("Hi", "What?")},
            "Preference",
            PREFERENCE,
            id="preference without a prompt of its own",
        ),
        pytest.param(
            {"prompt": "Hi", "chosen": [SYSTEM, *HI], "rejected": [SYSTEM, *pair("Hi", "What?")]},
            "Preference",
            {**PREFERENCE, "messages": [SYSTEM, *HI[:1]]},
            id="preference whose prompt stands below a system message too",
        ),
        pytest.param(
            {"prompt": "Hi", "chosen": [*HI, *HI], "rejected": [*HI, *pair("Hi", "What?")]},
            "Preference",
            {**PREFERENCE, "messages": [*HI, HI[0]]},
            id="preference whose prompt is the first of several questions",
        ),
        pytest.param(
            {"messages": [HI[0], {**HI[1], "weight": None, "tool_calls": None}], "tools": []},
            "Messages",
            HI,
            id="messages with empty fields, as Parquet has them",
        ),
        pytest.param({"text": "Hi\n"}, "Text", {"text": "Hi\n"}, id="plain text"),
        pytest.param(
            {"text": "\n12:30 User: Hi\nBot: Hello"}, "ChatLog", HI, id="a chat in a field of text"
        ),
        pytest.param(
            {"text": "From: a@x\nTo: b@x\n\nHi\n\nFrom: b@x\nTo: a@x\nSubject: Re:\n\nHello"},
            "EmailThread",
            HI,
            id="mails in a field of text",
        ),
        pytest.param(
            {"id": "1", "revision": "6", "feedback": None, "messages": HI, "response": {"id": "2"}},
            "Conversations",
            HI,
            id="a line of a ModelDeployment's log",
        ),
        pytest.param(
            {"id": "1", "revision": "6", "feedback": None, "messages": [HI[1], HI[0], *HI]},
            "Conversations",
            [HI[1], HI[0], *HI],
            id="a log has questions as clients ask them, also two in a row",
        ),
    ],
)
def test_auto_finds_the_format(value: Any, format_: str, expected: Any) -> None:
    made = reader()
    assert orjson.loads(made.convert(value) or b"") == expected
    assert made.format == format_


def test_text_that_is_no_text_is_malformed_not_a_chat() -> None:
    made = reader()
    with pytest.raises(Malformed, match="text is null"):
        made.convert({"text": None})
    assert made.format is DataFormat.TEXT


def test_columns_have_other_names() -> None:
    names = {"instruction": "task", "output": "result", "query": "utterance", "intent": "label"}
    made = reader(columns=names)
    assert orjson.loads(made.convert({"task": "Hi", "result": "Hello"}) or b"") == HI
    made = reader(columns=names, format="Intent")
    content = orjson.loads(made.convert({"utterance": "Hi", "label": "greet"}) or b"")
    assert json.loads(content[1]["content"]) == {"intent": "greet", "entities": {}}


@pytest.mark.parametrize(
    ("format_", "value", "what"),
    [
        pytest.param(
            "ShareGPT",
            {"conversations": [{"from": "robot", "value": "x"}]},
            "message 1 has the role 'robot'; known are human",
            id="an unknown speaker",
        ),
        pytest.param("ShareGPT", {"conversations": []}, "is an empty list", id="no turn"),
        pytest.param(
            "ShareGPT",
            {"system": "x", "conversations": [{"from": "human", "value": "x"}] * 2},
            "messages 1 and 2 are both the user's",
            id="a turn that got lost",
        ),
        pytest.param(
            "Alpaca",
            {"instruction": "x", "output": "y", "input": 3},
            "input is a number (3)",
            id="input",
        ),
        pytest.param(
            "Intent",
            {"query": "x", "intent": "y", "entities": 3},
            "entities is a number",
            id="entity",
        ),
        pytest.param(
            "Intent",
            {"query": "x", "intent": "y", "entities": [{"start": 1}]},
            "no name and value; it has the fields start",
            id="an entity without a name",
        ),
        pytest.param(
            "Preference", {"prompt": "x", "chosen": "y", "rejected": "y"}, "are equal", id="equal"
        ),
        pytest.param("Preference", {"chosen": "y", "rejected": "z"}, "no question", id="no prompt"),
        pytest.param(
            "Preference",
            {"chosen": HI, "rejected": pair("Bye", "x")},
            "different questions",
            id="answers to different questions",
        ),
        pytest.param(
            "Preference",
            {"prompt": [{"role": "robot", "content": "x"}], "chosen": "y", "rejected": "z"},
            "message 1 of prompt has the role 'robot'; known are system, user and assistant",
            id="a preference with an unknown role",
        ),
        pytest.param(
            "Preference",
            {"prompt": [*HI, HI[1], HI[0]], "chosen": "y", "rejected": "z"},
            "messages 2 and 3 of prompt are both the assistant's",
            id="two answers in a row before a preference",
        ),
        pytest.param(
            "Preference",
            {"prompt": "Why?", "chosen": HI, "rejected": pair("Hi", "x")},
            "messages 1 and 2 of the question are both the user's",
            id="a prompt and another question",
        ),
        pytest.param(
            "Preference",
            {"prompt": HI[::-1], "chosen": "y", "rejected": "z"},
            "the first message is the assistant's",
            id="a preference that begins with an answer",
        ),
        pytest.param(
            "Messages",
            {"messages": [HI[0], {**HI[1], "weight": "0"}]},
            "weight of message 2 is a text ('0'); known are 1 (learn the answer) and 0",
            id="a weight that would have been learned all the same",
        ),
        pytest.param(
            "Messages",
            {"messages": [HI[0], {**HI[1], "weight": 0.5}]},
            "weight of message 2 is a number (0.5); known are 1",
            id="half a weight",
        ),
        pytest.param(
            "Messages",
            {"messages": [HI[0], {**HI[1], "tool_calls": [{"id": "1", "type": "function"}]}]},
            "message 2 has tool_calls (a list ([{'id': '1', 'type': 'function'}])), and calls of",
            id="a call of a tool beside the answer",
        ),
        pytest.param(
            "Messages",
            {
                "messages": [
                    HI[0],
                    {"role": "assistant", "content": None, "function_call": {"n": 1}},
                ]
            },
            "message 2 has function_call",
            id="a call of a function in the place of the answer",
        ),
        pytest.param(
            "Messages",
            {"messages": HI, "tools": [{"type": "function"}]},
            "tools (a list ([{'type': 'function'}])) would not be shown to the model",
            id="tools that the template is not given",
        ),
        pytest.param(
            "Messages",
            {"messages": HI, "images": ["a.png"]},
            "images (a list (['a.png'])) would not be shown to the model; take the row out",
            id="images beside messages",
        ),
        pytest.param(
            "ShareGPT",
            {"conversations": HI, "image": "a.png"},
            "image (a text ('a.png')) would not be shown",
            id="an image beside turns",
        ),
        pytest.param(
            "ShareGPT",
            {"conversations": HI, "tools": '[{"name": "search"}]'},
            "tools (a text",
            id="tools in a cell of a table",
        ),
        pytest.param(
            "Messages",
            {"messages": str(HI)},
            "write it as JSON",
            id="as Python shows them",
        ),
        pytest.param(
            "Messages", [{**SYSTEM, "content": ""}], "only an empty system", id="only a null system"
        ),
        pytest.param("ChatLog", {"text": "nobody speaks"}, "names nobody", id="no speaker"),
        pytest.param("EmailThread", {"text": "no headers"}, "without From", id="no mail"),
        pytest.param("Text", {"text": " "}, "text is empty", id="no text"),
    ],
)
def test_a_malformed_row_says_what_is_wrong(format_: str, value: Any, what: str) -> None:
    with pytest.raises(Malformed) as caught:
        reader(format=format_).convert(value)
    assert what in str(caught.value)


@pytest.mark.parametrize(
    ("wanted", "kept"),
    [("Any", "gbn-"), ("Positive", "g"), ("NotNegative", "gn-")],
)
def test_feedback_decides_which_logged_rows_are_taken(wanted: str, kept: str) -> None:
    made = reader(feedback=wanted)
    ratings = {"g": "good", "b": "bad", "n": "neutral", "-": None}
    rows = {
        name: {"id": name, "revision": "1", "messages": HI, "feedback": r and {"rating": r}}
        for name, r in ratings.items()
    }
    assert "".join(n for n, row in rows.items() if made.convert(row) is not None) == kept
    assert made.convert({"id": "g", "revision": "1", "feedback": {"rating": "good"}}) is None


Write = Callable[[Path, list[dict[str, Any]]], bytes]
