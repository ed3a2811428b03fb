"""Reads a FineTuneJob from a file, with settings and paths of the command line put in.

YAML is read as Kubernetes reads it, so that a file that runs here is taken there: 2e-4 without
quotes is a number. Paths of this machine become ``file://`` URIs. Called by ``running`` and
``checking``; raises Refused with a line for each mistake.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path as FilePath
from typing import Any, NamedTuple

import yaml
from pydantic import ValidationError

from tunesmith_api.finetunejob import FineTuneJob
from tunesmith_cli.mistakes import Mistake, Path, Refused, dotted, suggestion
from tunesmith_cli.schema import check, field_schema, local_fields

_FILE = "file://"
JOB_FILES = (".yaml", ".yml")
_OUTPUT: Path = ("spec", "output", "uri")
_MODEL: Path = ("spec", "model", "uri")
_HUB_NAME = re.compile(r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")
_MOST_VALUES = 100_000
_GPUS: Path = ("spec", "compute", "gpusPerNode")


def _wrong(what: str, node: yaml.Node) -> yaml.MarkedYAMLError:
    return yaml.constructor.ConstructorError(None, None, what, node.start_mark)


class _Loader(yaml.SafeLoader):
    """PyYAML reads 2e-4 as text, and takes the last of two equal keys without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                what = "a key must be a text; fill in {{ … }} first, or put it into quotes"
                raise _wrong(what, key)
            if key.value in seen:
                raise _wrong(f'key "{key.value}" is there twice', key)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$"),
    list("-+.0123456789"),
)


class LoadedJob(NamedTuple):
    """A job that the API server would take, but for files of this machine."""

    job: FineTuneJob
    says_gpus: bool
    """Whether the file itself says how many GPUs it wants."""


def load_job(
    file: FilePath, settings: Sequence[str] = (), output: FilePath | None = None
) -> LoadedJob:
    """Read, change and check the job in a file. Raises Refused."""
    node, document = _read(file)
    lines = [line for text in settings if (line := _set(document, text))]
    if output is not None:
        _put(document, _OUTPUT, _FILE + str(output.absolute().resolve()) + "/")
    mistakes = _use_local_paths(document, file.absolute().parent)
    says_gpus = _get(document, _GPUS) is not None
    mistakes += check(document)
    if not (lines or mistakes):
        try:
            return LoadedJob(FineTuneJob.model_validate(document), says_gpus)
        except ValidationError as error:
            mistakes = [Mistake(tuple(e["loc"]), e["msg"]) for e in error.errors()]
    raise Refused(*lines, *(_line(file, node, mistake) for mistake in mistakes))


def as_uri(text: str, folder: FilePath) -> str:
    """Give a path as a ``file://`` URI, relative ones from ``folder``; a URI stays as it is."""
    if "://" in text:
        return text
    path = str((folder / FilePath(text).expanduser()).resolve())
    return _FILE + path + ("/" if text.endswith("/") else "")


def _read(file: FilePath) -> tuple[yaml.Node, dict[str, Any]]:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        hint = near_by(file) if isinstance(error, FileNotFoundError) else ""
        raise Refused(f"{file}: {why}{hint}") from error
    try:
        documents = list(_documents(text))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise Refused(f"{file}:{line}: not valid YAML: {error.problem}") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        why = f"the character {ord(text[error.position]):#06x} is not allowed"
        raise Refused(f"{file}:{line}: not valid YAML: {why}") from error
    except RecursionError as error:
        raise Refused(f"{file}: not valid YAML: too many values inside of each other") from error
    kinds = [value.get("kind") if isinstance(value, dict) else None for _, value in documents]
    if kinds.count(FineTuneJob.KIND) != 1:
        names = [str(kind) if kind else "something without a kind" for kind in kinds]
        found = f"it has {', '.join(names)}" if kinds else "it is empty"
        close = any(suggestion(name, [FineTuneJob.KIND]) for name in names)
        hint = " (did you mean FineTuneJob?)" if close and FineTuneJob.KIND not in kinds else ""
        raise Refused(f"{file}: one object of kind FineTuneJob is needed; {found}{hint}")
    return documents[kinds.index(FineTuneJob.KIND)]


def _documents(text: str) -> Iterator[tuple[yaml.Node, Any]]:
    """Give what stands in a file, each with its node; nothing for documents without a value."""
    loader = _Loader(text)
    while loader.check_node():
        if (node := loader.get_node()) is None:
            continue
        try:
            value = loader.construct_document(node)
            count = sum(1 for _ in islice(_values(value, ()), _MOST_VALUES))
        except ValueError as error:
            # Such as a date of the 13th month, which YAML takes for more than a text.
            raise _wrong(str(error), node) from error
        if count == _MOST_VALUES:
            raise _wrong(f"more than {_MOST_VALUES} values, those of aliases (*) counted", node)
        if value is not None:
            yield node, value


def _values(value: Any, above: tuple[int, ...]) -> Iterator[Any]:
    """Give all values inside of one; raise ValueError where one stands inside of itself."""
    if id(value) in above:
        raise ValueError("an alias (*) stands inside of what it names")
    yield value
    if isinstance(value, dict | list):
        inside = (*above, id(value))
        for part in value.values() if isinstance(value, dict) else value:
            yield from _values(part, inside)


def _set(document: dict[str, Any], text: str) -> str | None:
    """Put a setting in; give what is wrong with it."""
    name, equals, value = text.partition("=")
    path: Path = tuple(name.removeprefix("spec.").split("."))
    place: Path = ("spec", *path)
    if not equals:
        return f"--set {text}: write FIELD=VALUE, as in hyperparameters.maxSteps=10"
    for length in range(2, len(place) + 1):
        if field_schema(place[:length]) is None:
            known = (field_schema(place[: length - 1]) or {}).get("properties", {})
            hint = suggestion(str(place[length - 1]), known)
            return f"--set {name}: there is no field {dotted(place[:length])}{hint}"
    is_text = (field_schema(place) or {}).get("type") == "string"
    try:
        _put(document, place, value if is_text else yaml.load(value, Loader=_Loader))  # noqa: S506
    except (yaml.YAMLError, TypeError, ValueError) as error:
        return f"--set {text}: {' '.join(str(error).split())}"
    return None


def _put(document: dict[str, Any], path: Path, value: Any) -> None:
    for part in path[:-1]:
        document[str(part)] = document.get(str(part)) or {}
        document = document[str(part)]
    document[str(path[-1])] = value


def _get(document: Any, path: Path) -> Any:
    for part in path:
        if isinstance(part, int):
            document = document[part] if isinstance(document, list) else None
        else:
            document = document.get(part) if isinstance(document, dict) else None
    return document


def _use_local_paths(document: dict[str, Any], folder: FilePath) -> list[Mistake]:
    mistakes = []
    for path, text in list(local_fields(document)):
        if not text:
            continue
        uri = as_uri(text, folder)
        _get(document, path[:-1])[path[-1]] = uri
        if uri.startswith("pvc://"):
            mistakes.append(Mistake(path, f"{uri} is a volume of a cluster: give a path instead"))
        if uri.startswith(_FILE) and path != _OUTPUT:
            mistakes += _missing(path, text, FilePath(uri.removeprefix(_FILE)))
    return mistakes


def _missing(path: Path, text: str, file: FilePath) -> list[Mistake]:
    if file.exists():
        return []
    hint = near_by(file)
    if path == _MODEL and _HUB_NAME.match(text):
        hint = f"; for the model of that name on the Hugging Face Hub write hf://{text}"
    return [Mistake(path, f"{file} does not exist{hint}")]


def near_by(file: FilePath) -> str:
    """Suggest a file of the same folder where one is called nearly like a missing one."""
    near = [item.name for item in file.parent.iterdir()] if file.parent.is_dir() else []
    return suggestion(file.name, near)


def _line(file: FilePath, node: yaml.Node, mistake: Mistake) -> str:
    """Say a mistake with the line of its field, or of the nearest one above it."""
    line = node.start_mark.line + 1
    for part in mistake.path:
        found = _below(node, part)
        if found is None:
            break
        line, node = found
    sentence = mistake.sentence.removeprefix(f"{dotted(mistake.path)}: ")
    field = f"{dotted(mistake.path)}: " if mistake.path else ""
    return f"{file}:{line}: {field}{sentence}"


def _below(node: yaml.Node, part: str | int) -> tuple[int, yaml.Node] | None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == part:
                return key.start_mark.line + 1, value
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        value = node.value[part]
        return value.start_mark.line + 1, value
    return None
