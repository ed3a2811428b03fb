"""What takes long is imported in a shorter way, and nothing is left behind."""

import subprocess
import sys

PROGRAM = """
import sys
import torch
from tunesmith_trainer.importing import import_bitsandbytes

before = torch.compile
import_bitsandbytes()
import peft
assert torch.compile is before
assert "bitsandbytes" in sys.modules
print([m for m in ("torch._inductor.compile_fx", "torch._inductor.lowering") if m in sys.modules])
"""


def test_bitsandbytes_brings_no_compiler_with_it() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={"PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.stdout.strip() == "[]", ended.stderr
