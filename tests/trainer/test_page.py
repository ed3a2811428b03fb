"""The report for people: complete, self-contained, and safe to open."""

from __future__ import annotations

import io
import re
from datetime import UTC, datetime
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from tunesmith_api.datastatus import DataStatus, DroppedRows, MaskedPieces, RowCounts
from tunesmith_api.measurements import BaselineValue, Measurement
from tunesmith_api.objectives import Objective
from tunesmith_api.report import DroppedSample, LossPoint, SampleAnswer, TrainingReport
from tunesmith_api.result import TrainingSummary
from tunesmith_trainer.curve import Curve
from tunesmith_trainer.drawing import as_png, as_svg, charts_of
from tunesmith_trainer.page import change, render, short, size

DIGEST = "sha256:" + "0" * 64
HOSTILE = "<script>alert(1)</script><img src=http://x/y>"


def report(**more: object) -> TrainingReport:
    curve = Curve(None)
    for step in range(1, 41):
        curve.add(
            LossPoint(
                step=step,
                loss=repr(3.0 / step + 0.5),
                learning_rate=repr(2e-4 * min(1, step / 5)),
                gradient_norm="1.25",
                tokens=step * 100,
            )
        )
        if step % 10 == 0:
            curve.note_validation_loss(3.2 / step + 0.7)
    given: dict[str, object] = {
        "job": {"namespace": "default", "name": "support", "uid": "u"},
        "attempt": 1,
        "created": datetime(2026, 11, 21, 12, 0, tzinfo=UTC),
        "trainer_version": "0.1.0",
        "base_model": {"uri": "hf://HuggingFaceTB/SmolLM2-135M-Instruct"},
        "dataset_digest": DIGEST,
        "inputs_digest": DIGEST,
        "data": DataStatus(rows=RowCounts(read=120, train=100, test=20)),
        "method": {"lora": {}},
        "hyperparameters": {},
        "training": TrainingSummary(steps=40, first_loss="3.5", last_loss="0.575"),
        "model": {"family": "llama"},
        "curve": curve.shortened(),
        "measurements": (
            Measurement(
                metric="heldout/loss",
                value="1.6123456789",
                low="1.52",
                high="1.71",
                base_value="2.9034",
                difference_low="-1.41",
                difference_high="-1.18",
                others=(
                    BaselineValue(
                        name="Deployed", value="1.7", difference_low="-0.2", difference_high="0.05"
                    ),
                ),
            ),
        ),
        "evaluation": {
            "baselines": ["Base", "Deployed"],
            "gates": [
                {"metric": "heldout/loss", "relation": "LowerBy", "value": "0.5"},
                {
                    "metric": "heldout/loss",
                    "relation": "LowerBy",
                    "value": "0",
                    "comparedWith": "Deployed",
                    "confidence": "Interval",
                },
            ],
        },
        "baselines": [
            {
                "name": "Deployed",
                "version": "support-v6",
                "form": "Merged",
                "uri": "s3://acme/m/",
                "digest": DIGEST,
            }
        ],
        "samples": (
            SampleAnswer(
                suite="ask",
                prompt="What is a canary?",
                expected="A revision that gets a part of the traffic.",
                base="A canary is a small yellow bird.\nIt sings.",
                tuned=HOSTILE,
                others={"Deployed": "A new revision."},
            ),
        ),
        "notes": ("Suite judge: 1 of 20 answers were not rated.",),
        "timing": {"Training": "12.3"},
    }
    return TrainingReport.model_validate(given | more)


class Reader(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += f" {data}"


def test_the_page_says_what_was_found() -> None:
    text = " ".join(Reader(render(report())).text.split())
    for words in (
        "Gates: inconclusive",
        "heldout/loss 1.6123456789 is lower by at least 0.5 than the base model's 2.9034",
        "may or may not be lower than the deployed version's 1.7",
        "95 % interval of the difference: -0.2 to 0.05",
        "1.6123 1.52 to 1.71 2.9034 better",
        "1 of 20 answers were not rated",
        "A canary is a small yellow bird.",
        "100, 0, 20",
        "support-v6",
        "hyperparameters.learningRate",
        "validation",
    ):
        assert words in text, words


def test_rows_that_were_left_out_are_shown_with_their_place() -> None:
    rows = RowCounts(read=40, train=20, malformed=1, filtered=9, too_long=3)
    dropped = (DroppedRows(reason="Url", rows=7),)
    masked = (MaskedPieces(kind="EMAIL", pieces=4),)
    place = "s3://acme/logs/conversations/6/2026-01-31/a.jsonl"
    samples = [
        DroppedSample(reason=reason, file=place, line=line, text=text)
        for reason, line, text in (
            ("Url", 4, HOSTILE),
            ("Feedback", 12, "rated bad ¶ Where is it?"),
            ("Malformed", 31, "prompt is a number (1), not text: {}"),
        )
    ]
    data = DataStatus(rows=rows, dropped=dropped, masked=masked)
    page = Reader(render(report(data=data, dropped=samples)))
    text = " ".join(page.text.split())
    for words in (
        f"Malformed 1 row file, line text {place} , 31 prompt is a number (1), not text: {{}}",
        f"Feedback 9 rows, the first 1 here file, line text {place} , 12 rated bad",
        "Url 7 rows, the first 1 here",
        "TooLong 3 rows No samples are kept of these.",
        "masked or removed EMAIL 4",
        HOSTILE,
    ):
        assert words in text, words
    assert "script" not in {tag for tag, _ in page.tags}
    assert "Rows left out or cut" not in render(report())


def test_the_page_needs_nothing_from_elsewhere_and_runs_nothing() -> None:
    page = Reader(render(report()))
    assert not {"script", "img", "iframe", "link", "object", "form"} & {tag for tag, _ in page.tags}
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in {"src", "href", "xlink:href", "action"}:
                assert (value or "").startswith("#"), (tag, name, value)
    assert HOSTILE in page.text


@pytest.mark.parametrize(
    "empty",
    [
        {"measurements": (), "samples": (), "notes": (), "baselines": ()},
        {"curve": ()},
        {"evaluation": {"gates": [], "allowUngated": True}},
        {"method": {"full": {}}},
    ],
    ids=lambda given: next(iter(given)),
)
def test_a_page_of_little_is_a_page(empty: dict[str, object]) -> None:
    assert "</html>" in render(report(**empty))


def test_the_loss_of_pairs_is_no_loss_of_tokens() -> None:
    titles = [
        charts_of(report().curve, objective)[0].title
        for objective in (Objective.SFT, Objective.DPO)
    ]
    assert titles == ["Loss (nats a token)", "Loss (of a pair)"]


def test_curves_take_the_colours_of_the_page() -> None:
    for chart in charts_of(report().curve):
        svg = as_svg(chart)
        assert ElementTree.fromstring(svg).tag.endswith("svg")
        colors = set(re.findall(r"(?:fill|stroke|color): ([^;\"]+)", svg)) - {"none"}
        assert colors <= {"var(--ink)", "var(--line)", "var(--first)", "var(--second)"}, colors
        assert svg == as_svg(chart)


def test_the_curve_is_a_picture() -> None:
    data = as_png(charts_of(report().curve))
    assert data.startswith(b"\x89PNG")
    assert len(data) < 300_000


@pytest.mark.parametrize("largest", [2.4e-5, 2.4e-4, 9_876_543])
def test_no_number_of_a_chart_is_cut_off(largest: float) -> None:
    steps = 1_000_000
    points = [
        LossPoint(
            step=step,
            loss=repr(-largest * step / steps),
            learning_rate=repr(largest * step / steps),
            gradient_norm=repr(largest + largest / 1e4 * step / steps),
            tokens=step,
        )
        for step in (1, steps // 2, steps)
    ]
    pixels = np.asarray(Image.open(io.BytesIO(as_png(charts_of(points)))).convert("L"))
    for edge in (pixels[:, :3], pixels[:, -3:], pixels[:3], pixels[-3:]):
        assert (edge == 255).all()


def test_the_curve_keeps_validation_when_it_is_shortened() -> None:
    points = report().curve
    assert [p.step for p in points if p.validation_loss] == [10, 20, 30, 40]
    curve = Curve(None, [p.model_dump_json(by_alias=True, exclude_defaults=True) for p in points])
    kept = curve.shortened(5)
    assert [p.step for p in kept] == [1, 10, 11, 20, 21, 30, 40]
    assert [p.step for p in kept if p.validation_loss] == [10, 20, 30, 40]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1.6123456", "1.6123"),
        ("0", "0"),
        ("0.00001234", "1.23e-05"),
        ("123456.7", "123,457"),
        ("", "-"),
        ("nan", "nan"),
    ],
)
def test_numbers_are_short(text: str, expected: str) -> None:
    assert short(text) == expected


def test_sizes_have_units() -> None:
    assert [size(n) for n in (5, 2048, 3 << 20, 5 << 30)] == [
        "5 B",
        "2.0 KiB",
        "3.0 MiB",
        "5.0 GiB",
    ]


@pytest.mark.parametrize(
    ("metric", "low", "high", "expected"),
    [
        ("s/loss", "-0.2", "-0.1", "better"),
        ("s/loss", "0.1", "0.2", "worse"),
        ("s/exact", "0.1", "0.2", "better"),
        ("s/exact", "-0.1", "0.2", "unsure"),
        ("s/exact", "0", "0", "same"),
        ("s/chosen_loss", "-0.2", "-0.1", "better"),
        ("s/exact", "", "", ""),
    ],
)
def test_a_difference_in_one_word(metric: str, low: str, high: str, expected: str) -> None:
    one = Measurement(metric=metric, value="1", difference_low=low, difference_high=high)
    assert change(one) == expected
