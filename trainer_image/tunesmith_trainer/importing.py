"""Imports in a shorter way what takes long. Called by ``__main__``, before all that needs it."""

import importlib.util
from collections.abc import Callable
from typing import Any

import torch


def import_bitsandbytes() -> None:
    """Import bitsandbytes, as peft does anyway, but leave its functions uncompiled.

    It wraps some that are for CPUs in torch.compile as it defines them, which imports the whole
    compiler: a second of each start, for what could be compiled only where a C++ compiler is, as
    in no image of ours. On CUDA it has kernels of its own. Nothing where it is not installed.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        return
    compiling: Any = torch.compile
    torch.compile = _uncompiled  # type: ignore[assignment]
    try:
        import bitsandbytes  # noqa: F401
    finally:
        torch.compile = compiling


def _uncompiled(function: Callable[..., Any] | None = None, **_options: object) -> Any:
    """Stand in for torch.compile, with and without arguments: give the function as it is."""
    return function if function is not None else lambda it: it
