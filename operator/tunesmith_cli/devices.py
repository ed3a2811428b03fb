"""The GPUs of this machine. ``python -m tunesmith_cli.devices`` prints them as JSON.

A process of its own asks torch, so that the command line need not hold it in memory.
"""

import json
import subprocess
import sys
from typing import NamedTuple


class Devices(NamedTuple):
    """The GPUs that torch can use here."""

    number: int
    name: str = "GPU"
    """Of the first."""
    memory_bytes: int = 0
    """Of the smallest."""


def find_devices() -> Devices:
    """Ask in a process of its own; none where torch cannot tell."""
    command = [sys.executable, "-m", "tunesmith_cli.devices"]
    asked = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = asked.stdout.splitlines()
    return Devices(*json.loads(lines[-1])) if asked.returncode == 0 and lines else Devices(0)


def _look() -> Devices:
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count == 0:
        return Devices(0)
    found = [torch.cuda.get_device_properties(index) for index in range(count)]
    return Devices(count, found[0].name, min(device.total_memory for device in found))


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_look()) + "\n")
