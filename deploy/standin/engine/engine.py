"""A stand-in engine for roll-outs: speaks OpenAI's API and misbehaves as its variables say.

ANSWER is what it says; ERROR_PERCENT of the answers are 500; DELAY_SECONDS come before each;
CRASH_AFTER_SECONDS ends it; LOAD_SECONDS pass before it is ready, NEVER for never. Called as
``vllm serve MODEL`` it takes vLLM's flags, refuses all others, and ends on SIGTERM as vLLM does.
With --enable-lora it loads and unloads adapters: what one says is its rank, and one of the rank
BAD_RANK answers 500. Only the standard library: the image is small.
"""

import argparse
import itertools
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

ANSWER = os.environ.get("ANSWER", "Tunesmith is a Kubernetes operator.")
ERROR_PERCENT = int(os.environ.get("ERROR_PERCENT", "0"))
DELAY_SECONDS = float(os.environ.get("DELAY_SECONDS", "0"))
CRASH_AFTER_SECONDS = float(os.environ.get("CRASH_AFTER_SECONDS", "0"))
LOAD_SECONDS = os.environ.get("LOAD_SECONDS", "0")
BAD_RANK = os.environ.get("BAD_RANK", "")
STARTED = time.monotonic()
USAGE = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
_numbers = itertools.count()


def is_loaded() -> bool:
    """Whether it is ready to answer."""
    return LOAD_SECONDS != "NEVER" and time.monotonic() - STARTED >= float(LOAD_SECONDS)


# Of vLLM's documentation of ``vllm serve`` and its engine arguments: those that the operator gives,
# and those that people most often add.
_NUMBERS = (
    "--gpu-memory-utilization",
    "--max-cpu-loras",
    "--max-loras",
    "--max-model-len",
    "--max-num-batched-tokens",
    "--max-num-seqs",
    "--pipeline-parallel-size",
    "--seed",
    "--tensor-parallel-size",
)
_TEXTS = ("--chat-template", "--dtype", "--kv-cache-dtype", "--quantization", "--revision")
_FLAGS = ("--enable-force-include-usage", "--enable-prefix-caching", "--enforce-eager")
_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
_LOADERS = ("auto", "safetensors", "runai_streamer", "runai_streamer_sharded", "dummy")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line as vLLM does. Ends the program with 2 where it knows a flag not."""
    parser = argparse.ArgumentParser(prog="vllm", allow_abbrev=False)
    parser.add_argument("command", nargs="?", choices=["serve"])
    parser.add_argument("model", nargs="?")
    parser.add_argument("--host", default="0.0.0.0")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--served-model-name", default="standin")
    parser.add_argument("--shutdown-timeout", type=int, default=0)
    parser.add_argument("--load-format", choices=_LOADERS)
    parser.add_argument("--enable-lora", action=argparse.BooleanOptionalAction)
    parser.add_argument("--max-lora-rank", type=int, choices=_RANKS, default=16)
    for name in _NUMBERS:
        parser.add_argument(name, type=float)
    for name in _TEXTS:
        parser.add_argument(name)
    for name in _FLAGS:
        parser.add_argument(name, action=argparse.BooleanOptionalAction)
    return parser.parse_args(arguments)


class Work:
    """The requests in progress, and the order of an end."""

    def __init__(self) -> None:
        """Begin with none."""
        self.is_ending = False
        self._count = 0
        self._changed = threading.Condition()

    @property
    def count(self) -> int:
        """How many they are."""
        return self._count

    @contextmanager
    def one_more(self) -> Iterator[None]:
        """Count a request for as long as the block lasts."""
        with self._changed:
            self._count += 1
        try:
            yield
        finally:
            with self._changed:
                self._count -= 1
                self._changed.notify_all()

    def end(self, patience: float) -> None:
        """Take no new requests and end once those in progress are answered, or patience has."""
        self.is_ending = True
        with self._changed:
            self._changed.wait_for(lambda: not self._count, patience)
        os._exit(0)


class Loras:
    """The adapters that are loaded: name -> rank. Refuses as vLLM 0.26 did in tests/vllm."""

    def __init__(self, options: argparse.Namespace) -> None:
        """Begin with none."""
        self.is_enabled = bool(options.enable_lora)
        self.may_change = os.environ.get("VLLM_ALLOW_RUNTIME_LORA_UPDATING", "") in ("True", "1")
        self.base = options.served_model_name
        self._limit = options.max_lora_rank
        self._ranks: dict[str, int] = {}

    def names(self) -> list[str]:
        """Give the models there are."""
        return [self.base, *self._ranks] if self.is_enabled else ["standin"]

    def rank(self, name: str) -> int | None:
        """Give an adapter's rank; None for what is no adapter."""
        return self._ranks.get(name)

    def load(self, name: str, path: str) -> tuple[int, str]:
        """Load an adapter; give the HTTP code and what is said."""
        if name in self._ranks:
            return 400, f"The lora adapter '{name}' has already been loaded."
        try:
            rank = int(json.loads((Path(path) / "adapter_config.json").read_text())["r"])
        except (OSError, ValueError, KeyError):
            return 404, f"Loading lora {name} failed: No adapter found for {path}"
        if rank > self._limit:
            why = f"'LoRA rank {rank} is greater than max_lora_rank {self._limit}.'"
            return 500, f"Call to add_lora method failed: Worker failed with error {why}"
        self._ranks[name] = rank
        return 200, f"Success: LoRA adapter '{name}' added successfully."

    def unload(self, name: str) -> tuple[int, str]:
        """Unload an adapter."""
        if self._ranks.pop(name, None) is None:
            return 404, f"The lora adapter '{name}' cannot be found."
        return 200, f"Success: LoRA adapter '{name}' removed successfully."


class Server(ThreadingHTTPServer):
    """The engine, until SIGTERM."""

    def __init__(self, options: argparse.Namespace) -> None:
        """Listen at once, as engines do that answer before their model is loaded."""
        super().__init__((options.host, options.port), Handler)
        self.loras = Loras(options)
        self.work = Work()


class Handler(BaseHTTPRequestHandler):
    """Answers everything, well or badly."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        """List the models, once they are loaded, or say how many requests are in progress.

        The latter as with vLLM's --enable-server-load-tracking.
        """
        if self.path == "/load":
            self._send(200, {"server_load": self.server.work.count})
            return
        cards = [{"id": name, "object": "model"} for name in self.server.loras.names()]
        self._send(200 if is_loaded() else 503, {"object": "list", "data": cards})

    def do_POST(self) -> None:
        """Answer a question, or load or unload an adapter."""
        asked = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")
        if self.server.work.is_ending:
            self._send(503, {"error": {"message": "the engine is ending"}})
            return
        with self.server.work.one_more():
            if self.path.endswith("_lora_adapter"):
                self._change(asked)
            else:
                self._answer(asked)

    def _answer(self, asked: dict[str, Any]) -> None:
        time.sleep(DELAY_SECONDS)
        loras = self.server.loras
        name, answer = asked.get("model", ""), ANSWER
        if loras.is_enabled and name not in loras.names():
            self._send(404, {"error": {"message": f"The model `{name}` does not exist."}})
            return
        rank = loras.rank(name)
        if rank is not None:
            answer = f"I am an adapter of rank {rank}."
        if BAD_RANK and str(rank) == BAD_RANK:
            self._send(500, {"error": {"message": "the adapter failed"}})
            return
        # Spread evenly, so that a share of a small number of requests is that share.
        if next(_numbers) * ERROR_PERCENT % 100 < ERROR_PERCENT:
            self._send(500, {"error": {"message": "the engine failed"}})
        elif asked.get("stream"):
            self._stream(answer)
        else:
            message = {"role": "assistant", "content": answer}
            choice = {"index": 0, "message": message, "text": answer, "finish_reason": "stop"}
            self._send(200, {"model": name, "choices": [choice], "usage": USAGE})

    def _change(self, asked: dict[str, Any]) -> None:
        """Load or unload an adapter, where that is allowed."""
        loras, name = self.server.loras, asked.get("lora_name", "")
        if not (loras.is_enabled and loras.may_change):
            self._send(404, {"detail": "Not Found"})
            return
        if self.path == "/v1/load_lora_adapter":
            code, text = loras.load(name, asked.get("lora_path", ""))
        else:
            code, text = loras.unload(name)
        self._send(code, text if code == 200 else {"error": {"message": text, "code": code}})

    def _stream(self, answer: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        for word in answer.split():
            part = {"choices": [{"index": 0, "delta": {"content": word + " "}}]}
            self.wfile.write(f"data: {json.dumps(part)}\n\n".encode())
            time.sleep(0.02)
        self.wfile.write(f"data: {json.dumps({'choices': [], 'usage': USAGE})}\n\n".encode())
        self.wfile.write(b"data: [DONE]\n\n")

    def _send(self, code: int, body: object) -> None:
        text = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        """Say nothing of each request."""


def serve(options: argparse.Namespace) -> None:
    """Answer until SIGTERM."""
    server = Server(options)
    ending = threading.Thread(target=server.work.end, args=[options.shutdown_timeout])
    # The first process of a container has no default for SIGTERM, and a handler must not wait.
    signal.signal(signal.SIGTERM, lambda *_: None if server.work.is_ending else ending.start())
    if CRASH_AFTER_SECONDS:
        threading.Timer(CRASH_AFTER_SECONDS, os._exit, [1]).start()
    server.serve_forever()


if __name__ == "__main__":
    print("standin:", sys.argv[1:], flush=True)
    serve(parse(sys.argv[1:]))
