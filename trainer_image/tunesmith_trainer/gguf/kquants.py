"""K-quants, which the gguf package cannot write: llama.cpp's own llama-quantize makes them.

Needs that program on the PATH of the trainer's image. Called by `artifacts`; `check_llama_quantize`
by `file`, before anything is trained.
"""

import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tunesmith_api.output import K_QUANTS, GgufQuantization
from tunesmith_trainer.disk import check_room
from tunesmith_trainer.gguf.families import refusal
from tunesmith_trainer.logs import log
from tunesmith_trainer.outcome import Infrastructure, shorten

PROGRAM: Final = "llama-quantize"
_POLL_SECONDS = 0.5
# Of a weight, of 16 in the source; what these forms take at least.
_BITS = {
    GgufQuantization.Q6_K: 6.5,
    GgufQuantization.Q5_K_M: 5.5,
    GgufQuantization.Q4_K_M: 4.5,
}


def check_llama_quantize(quantization: GgufQuantization) -> None:
    """Raise UserError InvalidRun where `quantization` needs a program that the image lacks."""
    if quantization in K_QUANTS and shutil.which(PROGRAM) is None:
        raise refusal(
            f"output.gguf.quantization {quantization.value} is made by llama.cpp's {PROGRAM}, "
            "which this image has not. Set compute.image to one that has it on its PATH, or choose "
            "Q8_0 or Q4_0"
        )


def quantize_file(
    source: Path, target: Path, quantization: GgufQuantization, on_wait: Callable[[], None]
) -> None:
    """Write the GGUF file `source` again as `target`, with matrices as `quantization` says.

    `on_wait` is called twice a second and may raise, which ends the work. Raises Infrastructure
    QuantizationFailed with the program's last words, or DiskFull.
    """
    needed = int(source.stat().st_size * _BITS[quantization] / 16)
    check_room(target.parent, needed, f"the file {target.name}")
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(
            [PROGRAM, str(source), str(target), quantization.value],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
        )
        try:
            while _is_running(process):
                on_wait()
        finally:
            process.kill()
            process.wait()
        if process.returncode != 0:
            written = target.stat().st_size if target.exists() else 0
            check_room(target.parent, needed - written, f"the rest of {target.name}")
            said.seek(0)
            words = " ".join(said.read()[-300:].split())
            raise Infrastructure(
                "QuantizationFailed",
                f"{PROGRAM} ended with {process.returncode}: {shorten(words, 300)}",
            )
    log.info("quantized", quantization=quantization.value, size_bytes=target.stat().st_size)


def _is_running(process: "subprocess.Popen[bytes]") -> bool:
    try:
        process.wait(_POLL_SECONDS)
    except subprocess.TimeoutExpired:
        return True
    return False
