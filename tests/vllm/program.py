"""A real vLLM as a program of its own, started as its pod starts it.

Needs vLLM for CPUs, where VLLM says; ``make test-vllm`` installs one. Skipped elsewhere.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.cli.conftest import FinishedRun
from tests.ports import free_port
from tests.trainer.conftest import ROOT_KEYS
from tests.unit.manifests import variables

VLLM = os.environ.get("VLLM", "")
QUESTION = "say c"
# What people give who have no GPU. Exact numbers, so that two programs say the same.
ON_A_CPU = ["--enforce-eager", "--dtype=float32", "--max-model-len=256"]


needs_vllm = pytest.mark.skipif(not VLLM, reason="VLLM names no vLLM: make test-vllm")


def artifact(run: FinishedRun, name: str) -> Path:
    """Give the folder of what an attempt made."""
    (folder,) = (run.folder / name).iterdir()
    return folder


@dataclass(frozen=True)
class Answer:
    """What transformers says."""

    text: str
    confidence: float
    """Geometric mean of the probabilities of its tokens, the end of turn among them."""


def question(**more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": QUESTION}]
    return {"messages": messages, "max_tokens": 24, "temperature": 0} | more


class Program:
    """vLLM, which is three processes."""

    def __init__(self, part: dict[str, Any], model: str, home: Path) -> None:
        """``part`` is the container's manifest; ``model`` takes the place of its model."""
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = home / "vllm.log"
        options = [arg for arg in part["args"][1:] if not arg.startswith("--port=")]
        assert part["command"] == ["vllm", "serve"]
        self._command = [VLLM, "serve", model, *options, f"--port={self.port}"]
        keys = dict(zip(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), ROOT_KEYS, strict=True))
        own = {"HOME": str(home), "TORCHINDUCTOR_CACHE_DIR": str(home / "inductor")}
        small = {"VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": "1"}
        # A Secret's keys are there only where the manifest names them.
        told = variables(part)
        secret = {name: text for name, text in keys.items() if name in told}
        path = {"PATH": os.environ["PATH"]}
        self._environment = path | told | secret | own | small
        self.process = self.start()

    def start(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command, env=self._environment, stdout=log, stderr=log, start_new_session=True
            )
        return self.process

    def wait_until_loaded(self) -> None:
        """Ask as the pod's probe does; half a minute on a quiet machine."""
        end = time.monotonic() + 900
        while time.monotonic() < end:
            assert self.process.poll() is None, self.log.read_text()[-5000:]
            try:
                if httpx.get(self.url + "/v1/models", timeout=30).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.2)
        raise AssertionError(self.log.read_text()[-5000:])

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextmanager
def program(part: dict[str, Any], model: str, home: Path) -> Iterator[Program]:
    started = Program(part, model, home)
    try:
        started.wait_until_loaded()
        yield started
    finally:
        started.kill()
        print(started.log.read_text()[-3000:])


def events(text: str) -> list[Any]:
    """Give the events of a stream; the last is the text that ends one."""
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line]
    return [*(json.loads(line) for line in lines[:-1]), lines[-1]]
