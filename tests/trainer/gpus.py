"""Marks for what needs GPUs, so that a test runs on CPUs and, where there are some, on them too."""

from __future__ import annotations

from typing import Any

import pytest
import torch


def on_gpus(*values: Any, count: int = 1, id: str = "") -> Any:
    """Give a parameter of a test that is skipped where there are fewer than `count` GPUs."""
    name = id or ("GPU" if count == 1 else f"{count} GPUs")
    reason = "needs a CUDA device" if count == 1 else f"needs {count} CUDA devices"
    skip = pytest.mark.skipif(torch.cuda.device_count() < count, reason=reason)
    return pytest.param(*values, id=name, marks=[pytest.mark.gpu, skip])
