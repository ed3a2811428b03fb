"""What is wrong with what the user gave, said in lines that name the place and what to change."""

from collections.abc import Iterable
from difflib import get_close_matches
from enum import StrEnum
from typing import NamedTuple, TypeVar

Path = tuple[str | int, ...]
"""A field's place in a document, such as ("spec", "train", "sources", 0)."""
Choice = TypeVar("Choice", bound=StrEnum)


class Mistake(NamedTuple):
    """One thing to change."""

    path: Path
    """The field; empty for the document as a whole."""
    sentence: str
    """What is wrong, as the API server says it where it says it too."""


class Refused(Exception):
    """What the user gave cannot be used; nothing was done."""

    def __init__(self, *lines: str) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


def dotted(path: Path) -> str:
    """Write a path as Kubernetes does: spec.dataset.train.sources[0].uri."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


def one_of(choices: type[Choice], option: str, name: str) -> Choice:
    """Give the choice of that name, in whatever case. Raises Refused with all there are."""
    known = {choice.lower(): choice for choice in choices}
    if name.lower() not in known:
        raise Refused(f"{option} {name}: there are {', '.join(choices)}{suggestion(name, choices)}")
    return known[name.lower()]


def suggestion(word: str, known: Iterable[str]) -> str:
    """Give " (did you mean …?)" where something known looks alike, else nothing."""
    known = list(known)
    lower = {name.lower(): name for name in known}
    close = get_close_matches(word.lower(), lower, n=1, cutoff=0.6)
    return f" (did you mean {lower[close[0]]}?)" if close else ""
