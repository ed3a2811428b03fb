"""Runs programs and keeps what they say in a log file.

Every step of a command has one ``Log``. A failing program becomes a ``StepError`` that carries
the end of its output and, where there is one, what to do about it. Used by all of ``deploy``.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

TAIL_LINES = 12


class StepError(Exception):
    """A step cannot go on. ``hint`` tells the person what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        """Keep the hint apart, so that the display can set it off."""
        super().__init__(message)
        self.hint = hint


class Log:
    """The log of one step: a file, the newest line for the display, and the programs it runs."""

    def __init__(self, path: Path) -> None:
        """Start an empty log at ``path``."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.newest = ""
        self._file = path.open("w", encoding="utf-8", errors="replace")
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[str]] = set()

    def say(self, line: str) -> None:
        """Write one line; it is also what the live display shows beside the step."""
        with self._lock:
            self.newest = line.strip() or self.newest
            clock = time.strftime("%H:%M:%S")
            self._file.write(f"{clock} {line.rstrip()}\n")
            self._file.flush()

    def run(
        self,
        command: Sequence[object],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        stdin: str = "",
        hint: str = "",
    ) -> str:
        """Run ``command`` to its end and return its standard output.

        ``env`` is added to the environment; standard error goes to the log, too. Raises
        ``StepError`` with ``hint`` when the program is missing or exits non-zero.
        """
        words = [str(word) for word in command]
        self.say("$ " + shlex.join(words))
        tail: deque[str] = deque(maxlen=TAIL_LINES)
        try:
            process = subprocess.Popen(
                words,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**os.environ, **(env or {})},
                cwd=cwd,
                text=True,
                errors="replace",
                start_new_session=True,  # so that stop() takes the grandchildren along
            )
        except FileNotFoundError as error:
            raise StepError(f"{words[0]} is not installed", hint) from error
        self._running.add(process)
        try:
            output = self._follow(process, stdin, tail)
        finally:
            self._running.discard(process)
        if process.returncode != 0:
            said = "\n".join(tail)
            raise StepError(f"{Path(words[0]).name} exited with {process.returncode}\n{said}", hint)
        return output

    def succeeds(self, command: Sequence[object], **options: str) -> bool:
        """Run ``command`` and say whether it exited with zero."""
        try:
            self.run(command, **options)  # type: ignore[arg-type]
        except StepError:
            return False
        return True

    def stop(self) -> None:
        """End the programs that are still running: the person pressed Ctrl-C."""
        for process in list(self._running):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)

    def _follow(self, process: subprocess.Popen[str], stdin: str, tail: deque[str]) -> str:
        """Copy both streams into the log while the program runs; return standard output."""
        assert process.stdin and process.stdout and process.stderr
        kept: list[str] = []

        def copy_errors() -> None:
            assert process.stderr
            for line in process.stderr:
                tail.append(line.rstrip())
                self.say(line)

        errors = threading.Thread(target=copy_errors, daemon=True)
        errors.start()
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(stdin)
            process.stdin.close()
        for line in process.stdout:
            kept.append(line)
            tail.append(line.rstrip())
            self.say(line)
        process.wait()
        errors.join(timeout=5)
        return "".join(kept)
