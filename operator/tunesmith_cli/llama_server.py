"""A GGUF file that answers: llama.cpp's server, for as long as the conversation lasts.

It listens on 127.0.0.1 alone, with a key that nobody else knows, and ends with us. Options of its
own come from the environment, as LLAMA_ARG_N_GPU_LAYERS. Called by ``chatting``.
"""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryFile
from types import FrameType
from typing import IO, Any

import httpx2
import orjson

from tunesmith_cli.mistakes import Refused
from tunesmith_cli.terminal import err

PROGRAM = "llama-server"
MISSING = (
    "A GGUF file is answered for by llama.cpp, and there is no llama-server on PATH: install it"
    " (brew install llama.cpp, winget install llama.cpp, apt install llama.cpp, or"
    " https://github.com/ggml-org/llama.cpp/releases), or name the program in LLAMA_SERVER."
)
_CONTEXT = "8192"
"""Tokens there is memory taken for, where nobody says another number: files name up to 1,000,000.
"""
_LOADING_SECONDS = 1800
_LAST_LINES = 5
_ENDING_SECONDS = 10
_ENDS = (signal.SIGTERM, signal.SIGHUP)


def find_program() -> str | None:
    """Give the program's path; None where there is none. Raises Refused for a wrong setting."""
    named = os.environ.get("LLAMA_SERVER")
    found = shutil.which(named or PROGRAM)
    if named and not found:
        raise Refused(f"LLAMA_SERVER is {named}, which is not a program")
    return found


class LlamaServer:
    """A llama-server with one file, from its start to its end."""

    def __init__(self, program: str, file: Path, parameters: dict[str, Any]) -> None:
        """Start it and wait until it answers; ``parameters`` are by Ollama's names.

        Raises Refused where the file cannot be loaded.
        """
        # Appended to, so that to read it does not move where the server writes.
        self._log = TemporaryFile("a+b")  # noqa: SIM115 - as long as the server
        self._body = _as_asked(parameters)
        key, port = secrets.token_hex(16), _free_port()
        context = str(parameters.get("num_ctx", _CONTEXT))
        environment = {"LLAMA_ARG_CTX_SIZE": context} | os.environ | {"LLAMA_API_KEY": key}
        command = [program, "--model", str(file), "--host", "127.0.0.1", "--port", str(port)]
        command += ["--parallel", "1", "--jinja", "--reasoning-format", "none"]
        self._client = httpx2.Client(
            base_url=f"http://127.0.0.1:{port}",
            headers={"Authorization": f"Bearer {key}"},
            timeout=httpx2.Timeout(10, read=None),
            trust_env=False,
        )
        try:
            self._process = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=subprocess.STDOUT,
                # Ctrl-C cuts an answer off; it must not end the server.
                start_new_session=True,
            )
        except OSError as error:
            raise Refused(f"{program} cannot be started: {error.strerror}") from error
        self._before = {name: signal.signal(name, _end) for name in _ENDS}
        try:
            err.print(f"Loading {file.name} with {program}", markup=False)
            self._wait(file)
        except BaseException:
            self.close()
            raise

    def answer(
        self, messages: list[dict[str, Any]], max_tokens: int, temperature: float
    ) -> Iterator[str]:
        """Give the answer in pieces; what is not taken is not made. Raises Refused."""
        asked = {"messages": messages, "max_tokens": max_tokens, "temperature": temperature}
        body = self._body | asked | {"stream": True}
        try:
            with self._client.stream("POST", "/v1/chat/completions", json=body) as answer:
                if answer.status_code != httpx2.codes.OK:
                    raise Refused(_refusal(answer.read()))
                for line in answer.iter_lines():
                    yield from _piece(line)
        except httpx2.HTTPError as error:
            raise Refused(f"llama-server gave no answer: {self._last_words() or error}") from error

    def close(self) -> None:
        """End it."""
        self._client.close()
        self._process.terminate()
        try:
            self._process.wait(_ENDING_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()
        for name, handler in self._before.items():
            signal.signal(name, handler)

    def _wait(self, file: Path) -> None:
        until = time.monotonic() + _LOADING_SECONDS
        while time.monotonic() < until:
            if self._process.poll() is not None:
                raise Refused(f"llama-server cannot load {file}: {self._last_words()}")
            try:
                if self._client.get("/health").status_code == httpx2.codes.OK:
                    return
            except httpx2.HTTPError:
                pass  # It does not listen yet.
            time.sleep(0.1)
        raise Refused(f"llama-server has not loaded {file} in {_LOADING_SECONDS // 60} minutes")

    def _last_words(self) -> str:
        return _tail(self._log)


def _as_asked(parameters: dict[str, Any]) -> dict[str, Any]:
    """Give Ollama's parameters as llama-server calls them in a request."""
    ours = ("num_ctx", "num_predict", "temperature")
    return {name: value for name, value in parameters.items() if name not in ours}


def _piece(line: str) -> Iterator[str]:
    """Give the text in a line of the stream."""
    name, _, data = line.partition(":")
    data = data.strip()
    if name == "error":
        raise Refused(_refusal(data.encode()))
    if name != "data" or not data or data == "[DONE]":
        return
    value = orjson.loads(data)
    if "error" in value:
        raise Refused(_refusal(data.encode()))
    for choice in value.get("choices", ()):
        if text := choice["delta"].get("content"):
            yield text


def _refusal(body: bytes) -> str:
    """Say what the server's error means for who talks."""
    try:
        value = orjson.loads(body)
        error = value.get("error", value)
        kind, said = str(error.get("type", "")), str(error.get("message", ""))
    except (orjson.JSONDecodeError, AttributeError):
        kind, said = "", body.decode(errors="replace")
    if kind == "exceed_context_size_error":
        return (
            f"The conversation has {error.get('n_prompt_tokens')} tokens, the model reads at most"
            f" {error.get('n_ctx')} here. Begin again with /reset, or give fewer or shorter"
            " examples; LLAMA_ARG_CTX_SIZE takes memory for more."
        )
    return f"llama-server refused: {' '.join(said.split())[:300]}"


def _tail(log: IO[bytes]) -> str:
    log.seek(0)
    lines = log.read()[-4000:].decode(errors="replace").splitlines()
    return " / ".join(line.strip() for line in lines[-_LAST_LINES:])


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _end(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
