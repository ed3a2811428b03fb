"""Quantities of Kubernetes (500m, 1.5Gi) in rules of CEL, which only the API server has built in.

Pure; called by ``schema``.
"""

import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Final

_PARTS = re.compile(r"([0-9.]+)([A-Za-z]*)")
_DECIMAL: Final = {unit: Decimal(1000) ** power for power, unit in enumerate(("", *"kMGTP"))}
_BINARY: Final = {f"{unit}i": Decimal(1024) ** power for power, unit in enumerate("KMGTP", 1)}
_UNITS: Final = {"m": Decimal("0.001"), **_DECIMAL, **_BINARY}


def parse_quantity(text: str) -> float:
    """Give the number that a quantity stands for. Raises ValueError."""
    found = _PARTS.fullmatch(text)
    if found is None or found[2] not in _UNITS:
        raise ValueError(f"{text[:80]} is no quantity")
    return float(Decimal(found[1]) * _UNITS[found[2]])


def compare(one: float, other: float) -> int:
    """Say how two quantities stand to each other: -1, 0 or 1."""
    return (one > other) - (one < other)


# CEL calls a function that is given first what stands before the dot.
QUANTITIES: Final[dict[str, Callable[..., Any]]] = {
    "quantity": parse_quantity,
    "compareTo": compare,
}
