"""A stand-in engine for roll-outs: speaks OpenAI's API and misbehaves as its variables say.

ANSWER is what it says; ERROR_PERCENT of the answers are 500; DELAY_SECONDS come before each;
CRASH_AFTER_SECONDS ends it; LOAD_SECONDS pass before it is ready, NEVER for never. Called as
``vllm serve MODEL`` it takes vLLM's flags too. Only the standard library: the image is small.
"""

import itertools
import json
import os
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ANSWER = os.environ.get("ANSWER", "Tunesmith is a Kubernetes operator.")
ERROR_PERCENT = int(os.environ.get("ERROR_PERCENT", "0"))
DELAY_SECONDS = float(os.environ.get("DELAY_SECONDS", "0"))
CRASH_AFTER_SECONDS = float(os.environ.get("CRASH_AFTER_SECONDS", "0"))
LOAD_SECONDS = os.environ.get("LOAD_SECONDS", "0")
STARTED = time.monotonic()
USAGE = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
_numbers = itertools.count()


def is_loaded() -> bool:
    """Whether it is ready to answer."""
    return LOAD_SECONDS != "NEVER" and time.monotonic() - STARTED >= float(LOAD_SECONDS)


class Handler(BaseHTTPRequestHandler):
    """Answers everything, well or badly."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """List the one model, once it is loaded."""
        self._send(200 if is_loaded() else 503, {"object": "list", "data": [{"id": "standin"}]})

    def do_POST(self) -> None:
        """Answer a question."""
        asked = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")
        time.sleep(DELAY_SECONDS)
        # Spread evenly, so that a share of a small number of requests is that share.
        if next(_numbers) * ERROR_PERCENT % 100 < ERROR_PERCENT:
            self._send(500, {"error": {"message": "the engine failed"}})
        elif asked.get("stream"):
            self._stream()
        else:
            message = {"role": "assistant", "content": ANSWER}
            choice = {"index": 0, "message": message, "text": ANSWER, "finish_reason": "stop"}
            self._send(200, {"choices": [choice], "usage": USAGE})

    def _stream(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        for word in ANSWER.split():
            part = {"choices": [{"index": 0, "delta": {"content": word + " "}}]}
            self.wfile.write(f"data: {json.dumps(part)}\n\n".encode())
            time.sleep(0.02)
        self.wfile.write(f"data: {json.dumps({'choices': [], 'usage': USAGE})}\n\n".encode())
        self.wfile.write(b"data: [DONE]\n\n")

    def _send(self, code: int, body: dict[str, object]) -> None:
        text = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        """Say nothing of each request."""


def port() -> int:
    """Read the flag as vLLM takes it: --port N or --port=N."""
    words = " ".join(sys.argv[1:]).replace("--port=", "--port ").split()
    return int(words[words.index("--port") + 1]) if "--port" in words else 8000


if __name__ == "__main__":
    print("standin:", sys.argv[1:], flush=True)
    if CRASH_AFTER_SECONDS:
        threading.Timer(CRASH_AFTER_SECONDS, os._exit, [1]).start()
    ThreadingHTTPServer(("0.0.0.0", port()), Handler).serve_forever()
