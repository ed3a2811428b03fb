"""What a person sees while something happens: bars in a terminal, lines elsewhere, words."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.cli.conftest import ENVIRONMENT, FinishedRun, tell
from tunesmith_cli.in_process import InProcess, load
from tunesmith_trainer.tiny import write_tiny

pytestmark = pytest.mark.timeout(600)

# Shows a stage in the middle of its training until it is told to end.
STAGE = """
from datetime import UTC, datetime

from tunesmith_api.attempts import StageName
from tunesmith_api.measurements import Metric
from tunesmith_api.result import Phase, TrainerProgress
from tunesmith_cli.screen import StageScreen

seen = TrainerProgress(
    stage=StageName.TRAIN, attempt=1, phase=Phase.LOADING_MODEL, phase_start_time=datetime.now(UTC)
)
metrics = (Metric(name="loss", value="1.25"), Metric(name="tokens_per_second", value="100.4"))
with StageScreen(StageName.TRAIN) as screen:
    screen.show(seen)
    training = {"phase": Phase.TRAINING, "step": 3, "total_steps": 12}
    screen.show(seen.model_copy(update=training | {"metrics": metrics, "eta_seconds": 250}))
    input()
    screen.end("done")
"""


def test_a_terminal_shows_a_bar_with_step_loss_speed_and_time_left() -> None:
    ours, theirs = pty.openpty()
    environment = ENVIRONMENT | {"TERM": "xterm", "COLUMNS": "160"}
    with subprocess.Popen(
        [sys.executable, "-c", STAGE], env=environment, stdin=subprocess.PIPE, stdout=theirs
    ) as process:
        os.close(theirs)
        try:
            shown = read_until(ours, r"step 3/12  loss 1\.250  100 tokens/s  ETA 4m10s")
            assert re.search(r"train +training +━{7}╸", shown), "a quarter of 30 places"
        finally:
            process.communicate(b"\n", timeout=100)
            os.close(ours)
    assert process.returncode == 0


def read_until(descriptor: int, pattern: str) -> str:
    """Read what a terminal is told until the pattern is in it, without its commands."""
    told, end = b"", time.monotonic() + 200
    while time.monotonic() < end:
        if select.select([descriptor], [], [], 1.0)[0]:
            told += os.read(descriptor, 4096)
        text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", told.decode(errors="replace"))
        if re.search(pattern, text):
            return text
    raise AssertionError(told)


def test_elsewhere_each_part_is_a_line() -> None:
    told = subprocess.run(
        [sys.executable, "-c", STAGE],
        env=ENVIRONMENT,
        input="\n",
        capture_output=True,
        text=True,
        check=True,
        timeout=200,
    )
    assert told.stdout.splitlines() == ["train: loading the model", "train: training"]


def test_the_page_of_a_report_is_opened_in_the_browser(
    finished: FinishedRun, tmp_path: Path
) -> None:
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" >> {tmp_path}/shown\n')
    browser.chmod(0o755)
    screen = {"DISPLAY": ":0", "BROWSER": f"{browser} %s"}
    told = tell("report", finished.folder, **screen)
    assert told.returncode == 0, told.stderr
    assert (tmp_path / "shown").read_text() == f"file://{finished.folder}/report.html\n"
    assert "The page with curves" not in told.stdout
    tell("report", finished.folder, "--no-open", **screen)
    assert len((tmp_path / "shown").read_text().splitlines()) == 1


class Dictated:
    """Has a model say the words of a text, and wait in the middle until one was heard."""

    def __init__(self, speaker: InProcess, text: str) -> None:
        self._tokens = speaker.tokenizer(text, add_special_tokens=False)["input_ids"]
        self._said = 0
        self.heard = threading.Event()
        speaker.model.register_forward_hook(self._say)

    def _say(self, _module: Any, _given: Any, output: Any) -> None:
        if self._said == len(self._tokens) // 2:
            assert self.heard.wait(60), "nothing came before the end"
        output.logits.fill_(-1e4)
        output.logits[..., self._tokens[self._said]] = 0.0
        self._said += 1


def test_an_answer_comes_word_by_word(tmp_path: Path) -> None:
    write_tiny(tmp_path)
    speaker = load(tmp_path, None)
    text = "one two three four five six seven eight nine ten"
    dictated = Dictated(speaker, text)
    pieces = []
    with torch.inference_mode():
        asked = [{"role": "user", "content": "Count."}]
        for piece in speaker.answer(asked, len(dictated._tokens), 0.0):
            pieces.append(piece)
            dictated.heard.set()
    assert "".join(pieces) == text
    assert len(pieces) >= 5
