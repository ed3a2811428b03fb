"""How an attempt ends: the closed set of errors, and the result that the operator reads.

Every failure that a person could meet is raised as one of these where it is understood; whatever
else escapes is sorted by :func:`classify` at the very end. Called by all modules of the trainer;
imports none of them, and no library whose errors it sorts (those are told apart by name).
"""

import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

from tunesmith_api.measurements import Measurement
from tunesmith_api.result import (
    TERMINATION_BYTES,
    ExitCode,
    Outcome,
    TrainerProgress,
    TrainerResult,
    UserErrorReason,
)

MESSAGE_LENGTH = 1024
_FEWEST_CHARACTERS = 64
_COMMANDS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class TrainerError(Exception):
    """An attempt's end without success: outcome, a CamelCase reason, and a sentence."""

    def __init__(self, outcome: Outcome, reason: str, message: str) -> None:
        super().__init__(message)
        self.outcome = outcome
        self.reason = reason
        self.message = message


class UserError(TrainerError):
    """A repeat ends the same way; the message says what to change."""

    def __init__(self, reason: UserErrorReason, message: str) -> None:
        super().__init__(Outcome.USER_ERROR, reason.value, message)


class Infrastructure(TrainerError):
    """Nobody's fault inside the job: a repeat may succeed."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(Outcome.INFRASTRUCTURE, reason, message)


class Interrupted(TrainerError):
    """SIGTERM was obeyed: everything worth keeping is saved and another attempt goes on."""

    def __init__(
        self, message: str = "Stopped by SIGTERM; another attempt goes on from here."
    ) -> None:
        super().__init__(Outcome.CHECKPOINTED, "Interrupted", message)


class OutOfMemory(TrainerError):
    """The device's or the pod's memory was not enough."""

    def __init__(self, message: str) -> None:
        super().__init__(Outcome.OUT_OF_MEMORY, "OutOfMemory", message)


class Superseded(TrainerError):
    """A newer attempt has taken over; this one must not write any more."""

    def __init__(self, message: str) -> None:
        super().__init__(Outcome.INFRASTRUCTURE, "Superseded", message)


_EXIT_CODES = {
    Outcome.SUCCEEDED: ExitCode.SUCCEEDED,
    Outcome.CHECKPOINTED: ExitCode.CHECKPOINTED,
    Outcome.USER_ERROR: ExitCode.USER_ERROR,
    Outcome.OUT_OF_MEMORY: ExitCode.OUT_OF_MEMORY,
    Outcome.INFRASTRUCTURE: ExitCode.INFRASTRUCTURE,
}


def exit_code(outcome: Outcome) -> ExitCode:
    """Return the process's exit code for an outcome."""
    return _EXIT_CODES[outcome]


def shorten(text: str, length: int = MESSAGE_LENGTH) -> str:
    """Return ``text`` in at most ``length`` characters, on one line, marked with … where cut."""
    line = harmless(" ".join(text.split()))
    return line if len(line) <= length else line[: length - 1] + "…"


def harmless(text: str) -> str:
    """Write the characters that command a terminal as \\x1b and the like; lines and tabs stay."""
    return _COMMANDS.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def classify(error: BaseException) -> TrainerError:
    """Sort any exception: a TrainerError stays, memory errors are told apart, the rest is ours.

    The caller logs the traceback; the result holds only the type and a short text.
    """
    if isinstance(error, TrainerError):
        return error
    kind = type(error)
    text = shorten(str(error), 400)
    if _is_out_of_memory(error):
        return OutOfMemory(
            f"Out of memory: {text} Lower hyperparameters.perDeviceBatchSize or"
            " maxSequenceLength, or ask for more memory in compute.resources."
        )
    if kind.__module__.split(".")[0] in {"botocore", "boto3", "s3transfer"}:
        return Infrastructure("StorageUnavailable", f"S3 failed: {kind.__name__}: {text}")
    if is_disk_full(error):
        return Infrastructure(
            "DiskFull",
            f"The disk is full: {text} Free some room and run it again, or choose a larger disk"
            " (in a cluster compute.resources.requests.ephemeral-storage).",
        )
    if isinstance(error, OSError) and error.errno is not None:
        return Infrastructure("LocalIOError", f"{kind.__name__}: {text}")
    return Infrastructure("InternalError", f"{kind.__name__}: {text}")


def is_disk_full(error: BaseException) -> bool:
    """Say whether an error of the system or of a library is a full disk's."""
    # Libraries in Rust, such as safetensors, have errors of their own that quote the system's.
    number = error.errno if isinstance(error, OSError) else None
    return number in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(error)


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and (
        "out of memory" in text or "not enough memory" in text
    )


def failed(error: TrainerError, seen: TrainerProgress) -> TrainerResult:
    """Build the result of an attempt that ended with ``error`` after getting as far as ``seen``."""
    return TrainerResult(
        stage=seen.stage,
        attempt=seen.attempt,
        outcome=error.outcome,
        reason=error.reason,
        message=shorten(error.message),
        step=seen.step,
        resumed_from_step=seen.resumed_from_step,
        checkpoint=seen.checkpoint,
    )


def write_result(result: TrainerResult, path: Path) -> None:
    """Write the termination message, at most TERMINATION_BYTES bytes of JSON.

    The kubelet cuts a longer one anywhere, which would leave no JSON at all. So the message is
    shortened first, and the list of sources and the architecture go, which are in S3 as well. Then
    measurements lose their intervals and other baselines, and after that go themselves, from the
    end, where those are that no gate asks for. The digest that success hangs on always stays.
    """
    data = _fitting(result)
    # The kubelet mounts the termination log as a file: it can be written, not replaced.
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _fitting(result: TrainerResult) -> bytes:
    for smaller in _ever_smaller(result):
        # A field that is left out has its default for whoever reads it.
        data = smaller.model_dump_json(by_alias=True, exclude_defaults=True).encode()
        if len(data) <= TERMINATION_BYTES:
            return data
    raise ValueError(f"a result of {len(data)} bytes cannot be made to fit")


def _ever_smaller(result: TrainerResult) -> Iterator[TrainerResult]:
    yield result
    for length in (256, _FEWEST_CHARACTERS):
        result = result.model_copy(update={"message": shorten(result.message, length)})
        yield result
    # After success there is no checkpoint any more, and report.json has the architecture.
    unneeded = ("architecture", "checkpoint") if result.report_digest else ("architecture",)
    short = result.data.model_copy(update={"sources": ()}) if result.data else None
    result = result.model_copy(update={**dict.fromkeys(unneeded), "data": short})
    yield result
    measured = result.measurements
    bare = tuple(
        Measurement(metric=m.metric, value=m.value, base_value=m.base_value) for m in measured
    )
    counts = range(len(measured) - 1, -1, -1)
    smaller = [*(measured[:n] + bare[n:] for n in counts), *(bare[:n] for n in counts)]
    for kept in smaller:
        yield result.model_copy(update={"measurements": kept})
