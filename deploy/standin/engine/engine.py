"""A stand-in engine for roll-outs: speaks OpenAI's API and misbehaves as its variables say.

ANSWER is what it says; ERROR_PERCENT of the answers are 500; DELAY_SECONDS come before each;
CRASH_AFTER_SECONDS ends it; LOAD_SECONDS pass before it is ready, NEVER for never. Called as
``vllm serve MODEL`` it takes vLLM's flags too, and with --enable-lora loads and unloads adapters
as vLLM does: what an adapter says is its rank, and one of the rank BAD_RANK answers 500. Only the
standard library: the image is small.
"""

import itertools
import json
import os
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

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


def option(name: str, default: str) -> str:
    """Read a flag as vLLM takes it: --name N or --name=N."""
    words = " ".join(sys.argv[1:]).replace(f"--{name}=", f"--{name} ").split()
    return words[words.index(f"--{name}") + 1] if f"--{name}" in words else default


class Loras:
    """The adapters that are loaded: name -> rank. Refuses as vLLM does."""

    def __init__(self) -> None:
        """Begin with none."""
        self.is_enabled = "--enable-lora" in sys.argv
        self.may_change = os.environ.get("VLLM_ALLOW_RUNTIME_LORA_UPDATING", "") in ("True", "1")
        self.base = option("served-model-name", "standin")
        self._limit = int(option("max-lora-rank", "16"))
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
        except (OSError, ValueError, KeyError) as error:
            return 404, f"No adapter found for {path}: {error}"
        if rank > self._limit:
            return 400, f"LoRA rank {rank} is greater than max_lora_rank {self._limit}."
        self._ranks[name] = rank
        return 200, f"Success: LoRA adapter '{name}' added successfully."

    def unload(self, name: str) -> tuple[int, str]:
        """Unload an adapter."""
        if self._ranks.pop(name, None) is None:
            return 404, f"The lora adapter '{name}' cannot be found."
        return 200, f"Success: LoRA adapter '{name}' removed successfully."


LORAS = Loras()


class Handler(BaseHTTPRequestHandler):
    """Answers everything, well or badly."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """List the models, once they are loaded."""
        cards = [{"id": name, "object": "model"} for name in LORAS.names()]
        self._send(200 if is_loaded() else 503, {"object": "list", "data": cards})

    def do_POST(self) -> None:
        """Answer a question."""
        asked = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")
        if self.path.endswith("_lora_adapter"):
            self._change(asked)
            return
        time.sleep(DELAY_SECONDS)
        name, answer = asked.get("model", ""), ANSWER
        if LORAS.is_enabled and name not in LORAS.names():
            self._send(404, {"error": {"message": f"The model `{name}` does not exist."}})
            return
        rank = LORAS.rank(name)
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

    def _change(self, asked: dict[str, str]) -> None:
        """Load or unload an adapter, where that is allowed."""
        name = asked.get("lora_name", "")
        if not (LORAS.is_enabled and LORAS.may_change):
            self._send(404, {"detail": "Not Found"})
        elif self.path == "/v1/load_lora_adapter":
            self._send(*LORAS.load(name, asked.get("lora_path", "")))
        else:
            self._send(*LORAS.unload(name))

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


if __name__ == "__main__":
    print("standin:", sys.argv[1:], flush=True)
    if CRASH_AFTER_SECONDS:
        threading.Timer(CRASH_AFTER_SECONDS, os._exit, [1]).start()
    ThreadingHTTPServer(("0.0.0.0", int(option("port", "8000"))), Handler).serve_forever()
