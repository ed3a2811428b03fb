"""Reads a Modelfile, for another engine than Ollama: where the model is, and how it is to be asked.

TEMPLATE is in Ollama's own language and is left to it; a GGUF file has its template inside. Called
by ``models`` and ``llama_server``; reads that one file.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tunesmith_cli.mistakes import Refused

MODELFILE = "Modelfile"
_INSTRUCTION = re.compile(
    r"^[ \t]*(?P<name>(?i:MESSAGE)[ \t]+[a-z]+|[A-Za-z]+)[ \t]+"
    r"(?:\"\"\"(?P<block>.*?)\"\"\"(?!\")|(?P<line>[^\r\n]*))",
    re.DOTALL | re.MULTILINE,
)
_KNOWN = ("ADAPTER", "FROM", "LICENSE", "MESSAGE", "PARAMETER", "REQUIRES", "SYSTEM", "TEMPLATE")
_WHOLE = ("num_ctx", "num_predict", "repeat_last_n", "seed", "top_k")
_DECIMAL = ("min_p", "presence_penalty", "frequency_penalty", "repeat_penalty", "temperature")


class Modelfile(NamedTuple):
    """What a Modelfile says, as far as other engines understand it."""

    model: Path
    """Its GGUF file."""
    system: str
    messages: tuple[dict[str, Any], ...]
    """Turns that stand before every conversation."""
    parameters: dict[str, Any]
    """By Ollama's names; stop is a list."""


def read_modelfile(file: Path) -> Modelfile:
    """Read a Modelfile. Raises Refused."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Refused(f"{file}: {error}") from error
    model, system = "", ""
    messages: list[dict[str, Any]] = []
    parameters: dict[str, Any] = {}
    for number, name, value in _instructions(text):
        place = f"{file}:{number}"
        if name == "FROM":
            model = value
        elif name == "ADAPTER":
            raise Refused(f"{place}: ADAPTER {value} is for Ollama: ollama create NAME -f {file}")
        elif name == "SYSTEM":
            system = value
        elif name.startswith("MESSAGE"):
            messages.append({"role": name.split()[-1].lower(), "content": value})
        elif name == "PARAMETER":
            _add(parameters, value, place)
    return Modelfile(_model(file, model), system, tuple(messages), parameters)


def _instructions(text: str) -> Iterator[tuple[int, str, str]]:
    """Give line, name and value of each; a comment, or what is no instruction, is none.

    The role of a MESSAGE is part of its name.
    """
    for found in _INSTRUCTION.finditer(text):
        name = found["name"].upper()
        if name.split()[0] in _KNOWN:
            value = found["block"] if found["block"] is not None else _unquoted(found["line"])
            yield text.count("\n", 0, found.start("name")) + 1, name, value


def _unquoted(text: str) -> str:
    text = text.strip()
    is_quoted = len(text) > 1 and text[0] == text[-1] == '"'
    return text[1:-1] if is_quoted else text


def _add(parameters: dict[str, Any], text: str, place: str) -> None:
    name, _, value = text.partition(" ")
    value = _unquoted(value)
    try:
        if name == "stop":
            parameters.setdefault("stop", []).append(value)
        elif name in _WHOLE:
            parameters[name] = int(value)
        elif name in (*_DECIMAL, "top_p"):
            parameters[name] = float(value)
    except ValueError as error:
        raise Refused(f"{place}: PARAMETER {name} {value[:80]} is not a number") from error


def _model(file: Path, name: str) -> Path:
    path = (file.parent / Path(name).expanduser()) if name else file
    if path.suffix != ".gguf" or not path.is_file():
        raise Refused(
            f"{file}: FROM {name or 'is missing'}: only a .gguf file beside it can be talked to"
            " here; what Ollama's library has is for ollama"
        )
    return path
