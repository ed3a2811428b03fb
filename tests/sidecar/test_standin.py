"""The engine that stands for vLLM where there is no GPU: how it ends."""

import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from deploy.load import ask, question
from tests.trainer.conftest import free_port

ENGINE = Path(__file__).resolve().parents[2] / "deploy/standin/engine/engine.py"


@pytest.mark.parametrize(
    ("patience", "code"),
    [
        pytest.param(10, 200, id="with a shutdown timeout it answers what is in progress"),
        pytest.param(0, 0, id="without one it does not"),
    ],
)
def test_sigterm_ends_it_as_vllm_documents(patience: int, code: int) -> None:
    port = free_port()
    command = [sys.executable, str(ENGINE), "serve", "model", f"--port={port}"]
    command.append(f"--shutdown-timeout={patience}")
    engine = subprocess.Popen(command, env=os.environ | {"DELAY_SECONDS": "2"})
    url = f"http://127.0.0.1:{port}"
    with ThreadPoolExecutor() as threads:
        while not is_listening(port):
            assert engine.poll() is None
            time.sleep(0.05)
        late = threads.submit(ask, url, question("Hi?"))
        # It has come, and is answered in another second.
        time.sleep(1)
        engine.send_signal(signal.SIGTERM)
        time.sleep(0.1)
        refused, _ = ask(url, question("And now?"))
        assert late.result()[0].code == code
    assert not refused.is_good
    assert engine.wait(60) == 0


def is_listening(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 60).close()
    except OSError:
        return False
    return True
