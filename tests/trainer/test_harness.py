"""lm-evaluation-harness itself, where it is installed, on task files of one's own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.trainer.conftest import Bucket
from tests.trainer.test_ranks import go_as_two
from tests.trainer.trials import WORDS, Trial
from tunesmith_trainer.outcome import UserError

# Before ranks are forked: it takes half a minute to import.
pytest.importorskip("lm_eval")
import lm_eval.models.huggingface  # noqa: F401

pytestmark = pytest.mark.timeout(600)

CHOICE = {
    "task": "repeat_choice",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "data/repeat.jsonl"}},
    "output_type": "multiple_choice",
    "test_split": "test",
    "doc_to_text": "{{ word }} {{ times }}",
    "doc_to_choice": "{{ choices }}",
    "doc_to_target": "{{ choices.index(answer) }}",
    "metric_list": [{"metric": "acc"}],
}
GENERATED = {
    **{k: v for k, v in CHOICE.items() if k != "doc_to_choice"},
    "task": "repeat_said",
    "output_type": "generate_until",
    "doc_to_target": "{{ answer }}",
    "generation_kwargs": {"until": ["\n"], "max_gen_toks": 6},
    "metric_list": [{"metric": "exact_match"}],
}
# Nothing in a template may lead out of it.
HOSTILE = {**CHOICE, "task": "hostile", "doc_to_text": "{{ word.__class__.__mro__[1] }}"}
# The harness tries a template on the first row only, before anything is trained.
LATER = {
    **CHOICE,
    "task": "later",
    "doc_to_text": "{{ word.__class__.__mro__[1] if times == 3 else word }}",
}
ROWS = [
    {"word": word, "times": times, "answer": " ".join([word] * times)}
    for word in WORDS
    for times in (1, 2, 3)
]


def put_tasks(bucket: Bucket, *tasks: dict[str, Any]) -> str:
    rows = [row | {"choices": [" ".join([w] * row["times"]) for w in WORDS]} for row in ROWS]
    bucket.put("tasks/data/repeat.jsonl", "\n".join(map(json.dumps, rows)))
    for task in tasks:
        bucket.put(f"tasks/{task['task']}.yaml", yaml.safe_dump(task))
    return bucket.uri("tasks/")


def suites(uri: str, *tasks: str, **more: Any) -> dict[str, Any]:
    asked = {"tasks": list(tasks), "taskFiles": {"uri": uri}} | more
    return {"evaluation": {"suites": [{"name": "h", "lmEval": asked}], "gates": []}}


@pytest.fixture
def make_trial(bucket: Bucket, make_run: Any, tmp_path: Path) -> Callable[..., Trial]:
    def make(sections: dict[str, Any], **settings: Any) -> Trial:
        return Trial(bucket, make_run, tmp_path, sections=sections, **settings)

    return make


def values(trial: Trial) -> dict[str, tuple[str, str]]:
    return {m.metric: (m.value, m.base_value) for m in trial.report().measurements}


def test_tasks_of_ones_own_are_measured(bucket: Bucket, make_trial: Callable[..., Trial]) -> None:
    uri = put_tasks(bucket, CHOICE, GENERATED)
    trial = make_trial(suites(uri, "repeat_choice", "repeat_said"), hyperparameters={"epochs": "8"})
    trial.go()
    found = values(trial)
    assert set(found) == {"h/repeat_choice_acc", "h/repeat_said_exact_match"}
    # The job teaches these very words.
    assert float(found["h/repeat_choice_acc"][0]) > float(found["h/repeat_choice_acc"][1])
    report = trial.report()
    assert report.notes == ()
    assert report.measurements[0].low
    assert report.task_files["h"].startswith("sha256:")


def test_the_harness_leaves_chance_and_tokenizer_alone(
    bucket: Bucket, make_trial: Callable[..., Trial]
) -> None:
    full = {"method": {"full": {}}, "output": {"uri": "s3://any/", "artifacts": ["Merged"]}}
    neft = {"neftuneAlpha": "5"}
    without = make_trial(full, name="without", hyperparameters=neft)
    without.go()
    uri = put_tasks(bucket, CHOICE)
    measured = make_trial(full | suites(uri, "repeat_choice"), name="with", hyperparameters=neft)
    measured.go()
    assert measured.curve() == without.curve()
    one, other = (
        (trial.fetch("merged") / "tokenizer_config.json").read_text()
        for trial in (without, measured)
    )
    assert one == other


def test_a_model_in_parts_is_measured_as_a_whole_one(
    bucket: Bucket, make_trial: Callable[..., Trial]
) -> None:
    uri = put_tasks(bucket, CHOICE, GENERATED, LATER)
    asked = suites(uri, "repeat_choice", "repeat_said")
    wrong = {"name": "wrong", "lmEval": {"tasks": ["later"], "taskFiles": {"uri": uri}}}
    asked["evaluation"]["suites"].insert(0, wrong)
    asked["method"] = {"lora": {"rank": 4, "alpha": 8, "dropout": "0"}}
    whole, parts = (
        make_trial(asked | {"world": {"nodes": 2, "sharding": kind}}, name=kind.lower())
        for kind in ("DDP", "FSDP")
    )
    assert go_as_two(whole, 1) == [0, 0]
    assert go_as_two(parts, 1) == [0, 0]
    assert values(parts) == values(whole)
    for trial in (whole, parts):
        notes = trial.report().notes
        assert [note.partition(":")[0] for note in notes] == ["Suite wrong", "Suite wrong"]
        assert "SecurityError" in notes[0]


@pytest.mark.parametrize(
    ("task", "asked", "words"),
    [
        pytest.param(HOSTILE, "hostile", "access to attribute '__class__'", id="hostile"),
        pytest.param(CHOICE, "repeat_choise", "did you mean repeat_choice", id="misspelt"),
        pytest.param(
            {**CHOICE, "test_split": "validation"}, "repeat_choice", "validation", id="no such part"
        ),
        pytest.param(
            {**CHOICE, "metric_list": [{"metric": "acc"}], "output_type": "chat"},
            "repeat_choice",
            "chat",
            id="unknown type",
        ),
    ],
)
def test_what_cannot_be_run_ends_the_job_before_it_trains(
    bucket: Bucket, make_trial: Callable[..., Trial], task: Any, asked: str, words: str
) -> None:
    trial = make_trial(suites(put_tasks(bucket, task), asked))
    with pytest.raises(UserError, match=words) as refused:
        trial.go()
    assert "Suite h" in refused.value.message
    assert trial.progress.snapshot().step == 0
