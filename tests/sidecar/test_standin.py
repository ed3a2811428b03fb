"""The engine that stands for vLLM where there is no GPU: how it ends."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from deploy.load import ask, question
from tests.trainer.conftest import free_port

ENGINE = Path(__file__).resolve().parents[2] / "deploy/standin/engine/engine.py"


@pytest.mark.parametrize(
    ("patience", "code"),
    [
        pytest.param(60, 200, id="with a shutdown timeout it answers what is in progress"),
        pytest.param(0, 0, id="without one it does not"),
    ],
)
def test_sigterm_ends_it_as_vllm_documents(patience: int, code: int) -> None:
    port = free_port()
    command = [sys.executable, str(ENGINE), "serve", "model", f"--port={port}"]
    command.append(f"--shutdown-timeout={patience}")
    engine = subprocess.Popen(command, env=os.environ | {"DELAY_SECONDS": "8"})
    url = f"http://127.0.0.1:{port}"
    with ThreadPoolExecutor() as threads:
        until(lambda: load(url) == 0)
        late = threads.submit(ask, url, question("Hi?"))
        until(lambda: load(url) == 1)
        engine.send_signal(signal.SIGTERM)
        # Soon it takes nothing new.
        until(lambda: not ask(url, question("And now?"))[0].is_good)
        assert late.result()[0].code == code
    assert engine.wait(60) == 0


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


def load(url: str) -> int:
    """Give how many requests are in progress; -1 while nobody listens."""
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"{url}/load") as it:
            return int(json.load(it)["server_load"])
    except OSError:
        return -1
