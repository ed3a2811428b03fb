"""`tunesmith run` and what can be done with its results, by the real programs on the tiny model."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.cli.conftest import COMMAND, ENVIRONMENT, FinishedRun, ask, run_here, tell, write_job
from tunesmith_api.attempts import StageName
from tunesmith_api.result import ExitCode, Outcome
from tunesmith_api.templating import Prompt
from tunesmith_cli.devices import Devices
from tunesmith_cli.jobfile import load_job
from tunesmith_cli.local import Places, build_run, plan
from tunesmith_cli.locking import alone_in
from tunesmith_cli.stages import StageProcess
from tunesmith_cli.terminal import out
from tunesmith_trainer.package import write_package
from tunesmith_trainer.tiny import write_tiny

pytestmark = pytest.mark.timeout(600)


def test_a_run_ends_with_results_and_a_verdict(finished: FinishedRun) -> None:
    told = finished.told
    assert told.returncode == 0, told.stderr
    assert "heldout/loss" in told.stdout
    assert "Gates: Passed" in told.stdout
    assert str(finished.folder) in told.stdout
    names = {path.name for path in finished.folder.iterdir()}
    # Neither checkpoints nor scratch files stay.
    assert names == {
        *("adapter", "merged", "prepared", "tensorboard", "logs"),
        *("report.json", "report.html", "curve.png", "metrics.jsonl", "run.json", "fence.json"),
    }


def test_the_same_file_again_finds_what_is_finished_and_judges_by_its_gates(
    finished: FinishedRun,
) -> None:
    report = (finished.folder / "report.json").read_bytes()
    gate = '[{metric: heldout/loss, relation: AtMost, value: "0.001"}]'
    again = run_here(finished.file, "--set", f"evaluation.gates={gate}")
    assert again.returncode == 1
    assert "An earlier attempt had finished all of it." in again.stdout
    assert "is not at most 0.001" in again.stdout
    assert (finished.folder / "report.json").read_bytes() == report
    assert json.loads((finished.folder / "fence.json").read_text()) == {"attempt": 4}


@pytest.mark.parametrize("place", ["/proc/nothing", "FOLDER/job.yaml/below-a-file"])
def test_a_folder_that_cannot_be_written_is_named(place: str, tmp_path: Path) -> None:
    told = ask("run", write_job(tmp_path), "--output", place.replace("FOLDER", str(tmp_path)))
    assert told.returncode == ExitCode.USER_ERROR
    assert place.rpartition("/")[2] in told.stderr
    assert "choose one with --work, or with --output" in told.stderr
    assert "Traceback" not in told.stderr


def test_one_run_at_a_time_and_what_is_stopped_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    file = write_job(tmp_path, checkpoint={"everySteps": 100_000})
    steps = ["--set", "hyperparameters.maxSteps=1000000"]
    command = [*COMMAND, "run", str(file), *steps]
    with subprocess.Popen(
        command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert any("train: training" in line for line in process.stdout)
            until = time.monotonic() + 300
            while not any(map(has_trained, (tmp_path / "out").glob("*/logs/*-train.log"))):
                assert process.poll() is None and time.monotonic() < until
                time.sleep(0.05)
            second = tell("run", file, *steps)
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=300)
        finally:
            process.kill()
    assert second.returncode == ExitCode.USER_ERROR
    assert f"Another `tunesmith run` of the same job is at work in {tmp_path}/out" in second.stderr
    # The first one is none the worse for it.
    assert process.returncode == ExitCode.CHECKPOINTED, said
    assert re.search(r"Stopped at step [1-9]\d*\. Run the same command again to go on\.", said), (
        said
    )
    (folder,) = (tmp_path / "out").iterdir()
    assert list((folder / "checkpoints").rglob("manifest.json"))


def test_what_a_killed_run_has_left_is_no_obstacle(tmp_path: Path) -> None:
    left = tmp_path / "run" / "scratch" / "attempt-1-prepare"
    left.mkdir(parents=True)
    (left / "run.json").write_text("{}")
    with alone_in(tmp_path / "run"):
        assert not left.parent.exists()


def has_trained(log: Path) -> bool:
    return '"event": "step"' in log.read_text()


def test_a_stage_ends_when_the_command_line_is_gone(tmp_path: Path) -> None:
    loaded = load_job(write_job(tmp_path))
    planned = plan(loaded.job, Devices(0), is_cpu_wanted=True, says_gpus=True)
    run = build_run(planned, Places.of(loaded.job, None), StageName.PREPARE, 1)
    stage = StageProcess(run, tmp_path / "work")
    # What the system does with our end of it when we are killed.
    stage.release()
    assert stage.wait(300)
    assert stage.finish().outcome is Outcome.CHECKPOINTED


def end_it(stage: StageProcess) -> None:
    """End it as the system does where memory is short."""
    os.kill(stage._process.pid, signal.SIGKILL)


@pytest.mark.parametrize(
    ("act", "outcome", "words"),
    [
        pytest.param(end_it, Outcome.OUT_OF_MEMORY, "most likely .* out of memory", id="system"),
        pytest.param(StageProcess.kill, Outcome.CHECKPOINTED, "Ended at once", id="second Ctrl-C"),
    ],
)
def test_who_killed_a_stage_says_what_is_done_next(
    tmp_path: Path, act: Callable[[StageProcess], None], outcome: Outcome, words: str
) -> None:
    loaded = load_job(write_job(tmp_path))
    planned = plan(loaded.job, Devices(0), is_cpu_wanted=True, says_gpus=True)
    run = build_run(planned, Places.of(loaded.job, None), StageName.PREPARE, 1)
    stage = StageProcess(run, tmp_path / "work")
    act(stage)
    assert stage.wait(300)
    result = stage.finish()
    assert result.outcome is outcome
    assert re.search(words, result.message)


def test_a_failed_stage_says_what_to_change_and_where_its_log_is(tmp_path: Path) -> None:
    file = write_job(tmp_path)
    (tmp_path / "rows.jsonl").write_text('{"question": "?", "answer": "!"}\n')
    told = tell("run", file)
    assert told.returncode == ExitCode.USER_ERROR
    assert "rows.jsonl line 1 has the fields answer, question. Format Auto" in told.stderr
    log = told.stderr.rpartition("The log: ")[2].strip()
    assert "WrongColumns" in Path(log).read_text()


def test_the_run_and_its_adapter_answer_alike(finished: FinishedRun) -> None:
    asked = ("--prompt", "say a", "--max-tokens", "8")
    merged = tell("chat", finished.folder, *asked)
    adapter = ask("chat", finished.folder / "adapter", *asked)
    assert merged.returncode == 0, merged.stderr
    # What libraries have to say is no part of a conversation.
    assert merged.stderr == ""
    assert len(merged.stdout) > 1
    assert adapter.stdout == merged.stdout


def write_talkative(folder: Path) -> None:
    """Write a model whose answers depend on all that it is given."""
    write_tiny(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    torch.manual_seed(0)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    model.save_pretrained(folder)


def test_a_package_alone_and_its_program_ask_as_the_model_was_taught(tmp_path: Path) -> None:
    example = {"prompt": "say b", "response": "bbb"}
    given = {"system": "Be short.", "template": "Please {{ prompt }} 3", "examples": [example]}
    write_talkative(tmp_path / "merged")
    write_package(tmp_path / "merged", Prompt.model_validate(given), tmp_path / "package")
    told = ask("chat", tmp_path / "package", "--prompt", "say a", "--max-tokens", "8")
    assert told.returncode == 0, told.stderr
    program = [sys.executable, tmp_path / "package" / "inference.py"]
    done = subprocess.run(
        [*program, "say a", "--max-new-tokens", "8"], capture_output=True, text=True, check=True
    )
    assert told.stdout.strip() == done.stdout.strip()
    plain = ask("chat", tmp_path / "merged", "--prompt", "say a", "--max-tokens", "8")
    assert plain.stdout != told.stdout


def test_what_cannot_be_talked_to_says_what_can(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("none")
    for place in (tmp_path, tmp_path / "notes.txt"):
        told = ask("chat", place, "--prompt", "x")
        assert told.returncode == ExitCode.USER_ERROR
        assert f"{place} has no model that can be talked to" in told.stderr
        assert "merged, adapter" in told.stderr and ".gguf file" in told.stderr
    told = ask("chat", tmp_path / "note.txt", "--prompt", "x")
    assert "note.txt does not exist (did you mean notes.txt?)" in told.stderr


def test_a_job_stands_for_its_newest_run(finished: FinishedRun) -> None:
    told = ask("report", finished.file, "--no-open")
    assert told.returncode == 0, told.stderr
    assert f"{finished.folder}/merged/" in told.stdout
    assert ask("chat", finished.file, "--prompt", "say a", "--max-tokens", "2").returncode == 0


def test_a_conversation_with_examples_and_a_new_beginning(tmp_path: Path) -> None:
    examples = tmp_path / "examples.jsonl"
    examples.write_text('{"user": "x", "bot": "y"}\n')
    told = ask(
        *("chat", "builtin://tiny", "--examples", examples, "--max-tokens", "4"),
        said="one\n/reset\n" + "long " * 200 + "\n/exit\n",
    )
    assert told.returncode == 0, told.stderr
    assert "the model reads at most 512" in told.stderr


def test_the_report_is_shown_for_the_folder_of_the_output(finished: FinishedRun) -> None:
    told = ask("report", finished.folder.parent, "--no-open")
    assert told.returncode == 0, told.stderr
    # By the gates of whoever ran it last.
    assert "Gates: " in told.stdout
    assert "builtin://tiny" in told.stdout


def test_paths_are_whole_in_a_narrow_terminal(
    finished: FinishedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(out, "width", 40)
    told = ask("report", finished.folder, "--no-open")
    for name in ("adapter", "merged"):
        assert f"{finished.folder}/{name}/attempt-2/" in told.stdout


def test_a_page_without_a_screen_is_named(finished: FinishedRun, tmp_path: Path) -> None:
    for name in ("report.json", "run.json"):
        (tmp_path / name).write_bytes((finished.folder / name).read_bytes())
    (tmp_path / "report.html").write_text("<p>")
    assert f"{tmp_path}/report.html" in ask("report", tmp_path).stdout
    assert "report.html" not in ask("report", tmp_path, "--no-open").stdout


def test_data_is_shown_as_the_model_sees_it(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    rows = [{"prompt": f"say {word}", "response": word * 3} for word in "abcdefghij"]
    lines = [json.dumps(row) for row in rows]
    file.write_text("\n".join([*lines, lines[0], '{"prompt": 1, "response": "x"}']))
    told = ask("data", "check", file, "--model", "builtin://tiny", "--rows", "1")
    assert told.returncode == 0, told.stderr
    assert "PromptResponse" in told.stdout
    assert "line 12: prompt is a number (1), not text" in told.stdout
    assert "⟦aaa<|im_end|>⟧" in told.stdout
    assert "template ChatTemplate, objective SFT, at most 512 a row" in told.stdout


def test_rows_that_are_left_out_as_tokens_are_shown(tmp_path: Path) -> None:
    file = write_job(tmp_path)
    with (tmp_path / "rows.jsonl").open("a") as rows:
        rows.write(json.dumps({"prompt": "say it", "response": "it " * 99}) + "\n")
    told = ask("data", "check", file)
    assert told.returncode == 0, told.stderr
    assert "left out: 1 rows too long, 0 with nothing to learn" in told.stdout
    assert "rows.jsonl line 11: say it ¶ it it" in told.stdout


def test_rows_that_a_job_cuts_are_shown_cut(tmp_path: Path) -> None:
    checks = {"train": {"uri": "rows.jsonl"}, "checks": {"tooLong": "Truncate"}}
    everything = checks | {"test": {"percent": "0"}}
    file = write_job(tmp_path, dataset=everything, evaluation={"gates": [], "allowUngated": True})
    with (tmp_path / "rows.jsonl").open("a") as rows:
        rows.write(json.dumps({"prompt": "say it", "response": "it " * 99}) + "\n")
    told = ask("data", "check", file)
    assert told.returncode == 0, told.stderr
    assert "in 11 rows" in told.stdout
    assert "cut or left out: 1 rows too long, 0 with nothing to learn" in told.stdout


def test_data_that_is_too_little_for_a_job_is_shown_all_the_same(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"prompt": "a", "response": "b"}\n{"prompt": "c"}\n')
    told = ask("data", "check", file)
    assert told.returncode == ExitCode.USER_ERROR
    assert "line 2: no field response" in told.stdout
    assert "row 1: user: a" in told.stdout
    assert "DatasetTooSmall: 1 distinct group" in told.stderr


@pytest.mark.parametrize("model", [(), ("--model", "builtin://tiny")], ids=["turns", "tokens"])
def test_data_cannot_command_the_terminal(tmp_path: Path, model: tuple[str, ...]) -> None:
    rows: list[dict[str, object]] = [
        {"prompt": "a\x1b[2J", "response": "b\x9b1m\x07"},
        {"prompt": "\x1b]0;x", "response": 1},
    ]
    file = tmp_path / "rows.jsonl"
    file.write_text(
        "".join(
            json.dumps(row, ensure_ascii=False) + "\n" for row in [*rows, rows[0] | {"prompt": "c"}]
        )
    )
    told = ask("data", "check", file, *model)
    assert told.returncode == 0, told.stderr
    assert not {"\x1b", "\x9b", "\x07"} & set(told.stdout + told.stderr)
    assert "\\x9b1m\\x07" in told.stdout


NEW_TOKENS = {"train": {"uri": "rows.jsonl"}, "addTokens": ["say", "bbb", "zzz", "a"]}


def test_what_new_tokens_save_is_shown(tmp_path: Path) -> None:
    dataset = NEW_TOKENS | {"test": {"percent": "0"}}
    file = write_job(tmp_path, dataset=dataset, evaluation={"gates": [], "allowUngated": True})
    told = ask("data", "check", file)
    assert told.returncode == 0, told.stderr
    assert "Added 3 tokens to the tokenizer." in told.stdout
    assert "Not added, as the tokenizer has them as one token: 'a'." in told.stdout
    assert "In no training row, so nothing is learned of them: 'zzz'." in told.stdout
    # Two of "say" in each of ten rows, two of "bbb" in one.
    assert "Without the added tokens there would be about 22 tokens more." in told.stdout


def test_a_run_with_new_tokens_and_its_adapter_answer_alike(tmp_path: Path) -> None:
    file = write_job(tmp_path, dataset=NEW_TOKENS)
    told = run_here(file)
    assert told.returncode == 0, told.stderr
    (folder,) = (tmp_path / "out").iterdir()
    asked = ("--prompt", "say b", "--max-tokens", "8")
    merged, adapter = ask("chat", folder, *asked), ask("chat", folder / "adapter", *asked)
    assert merged.returncode == 0, merged.stderr
    assert len(merged.stdout) > 1
    assert adapter.stdout == merged.stdout


PREFERENCE = {"prompt": "say a", "chosen": "aaa", "rejected": "b"}


def test_preferences_are_shown_with_both_answers(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    rows = [PREFERENCE | {"prompt": f"say {word}"} for word in "abcdefghij"]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    told = ask("data", "check", file, "--model", "builtin://tiny", "--rows", "1")
    assert told.returncode == 0, told.stderr
    assert "objective DPO" in told.stdout
    assert "row 1 chosen: " in told.stdout and "⟦aaa<|im_end|>⟧" in told.stdout
    assert "row 1 rejected: " in told.stdout and "⟦b<|im_end|>⟧" in told.stdout
    bare = ask("data", "check", file, "--rows", "1")
    assert "user: say a\nchosen: aaa\nrejected: b" in bare.stdout
    refused = ask("data", "check", file, "--objective", "sft")
    assert "WrongColumns" in refused.stderr and "objective SFT" in refused.stderr
    unknown = ask("data", "check", file, "--objective", "DPOO")
    assert "--objective DPOO: there are SFT, DPO, Pretrain (did you mean DPO?)" in unknown.stderr


def test_a_job_that_learns_from_preferences_is_checked(tmp_path: Path) -> None:
    file = write_job(tmp_path, objective="DPO")
    told = ask("data", "check", file)
    assert told.returncode == ExitCode.USER_ERROR
    assert "rows.jsonl line 1 has the fields prompt, response" in told.stderr
    rows = [PREFERENCE | {"prompt": f"say {word}"} for word in "abcdefghij"]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    told = ask("data", "check", file)
    assert told.returncode == 0, told.stderr
    assert "Preference, 10 rows" in told.stdout


def test_all_tokens_count_where_all_are_learned(tmp_path: Path) -> None:
    file = write_job(tmp_path, objective="Pretrain")
    told = ask("data", "check", file)
    assert told.returncode == 0, told.stderr
    tokens, learned = re.findall(r": (\d+) in 9 rows, (\d+) of them learned", told.stdout)[0]
    assert tokens == learned
    assert "⟦<|bos|><|im_start|>user" in told.stdout
    asked = ask("data", "check", file, "--objective", "SFT")
    tokens, learned = re.findall(r": (\d+) in 9 rows, (\d+) of them learned", asked.stdout)[0]
    assert int(tokens) > int(learned)


def test_a_generator_is_not_asked_for_rows_that_are_only_looked_at(tmp_path: Path) -> None:
    dataset = {
        "train": {"uri": "rows.jsonl"},
        "synthetic": {
            "generator": {"url": "http://127.0.0.1:9/v1", "model": "x"},
            "samples": 5,
            "prompts": ["Write one."],
        },
    }
    told = ask("data", "check", write_job(tmp_path, dataset=dataset))
    assert told.returncode == 0, told.stderr
    assert "rows that dataset.synthetic would add are not among them" in told.stdout
    assert "PromptResponse, 10 rows" in told.stdout


def test_unknown_things_are_guessed() -> None:
    told = ask("rum", "job.yaml")
    assert told.returncode == 2
    assert "Did you mean 'run'?" in told.stderr
