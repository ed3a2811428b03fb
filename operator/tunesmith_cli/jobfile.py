"""Reads a FineTuneJob from a file, with settings and paths of the command line put in.

YAML is read as Kubernetes reads it, so that a file that runs here is taken there: 2e-4 without
quotes is a number. Paths of this machine become ``file://`` URIs. Called by ``running`` and
``checking``; raises Refused with a line for each mistake.
"""

import re
from collections.abc import Sequence
from pathlib import Path as FilePath
from typing import Any, NamedTuple

import yaml
from pydantic import ValidationError

from tunesmith_api.finetunejob import FineTuneJob
from tunesmith_cli.mistakes import Mistake, Path, Refused, dotted, suggestion
from tunesmith_cli.schema import check, field_schema

_FILE = "file://"
_INPUTS: tuple[Path, ...] = (
    ("spec", "model", "uri"),
    ("spec", "dataset", "train", "uri"),
    ("spec", "dataset", "validation", "uri"),
    ("spec", "dataset", "test", "uri"),
)
_OUTPUT: Path = ("spec", "output", "uri")
_GPUS: Path = ("spec", "compute", "gpusPerNode")
_SOURCES: Path = ("spec", "dataset", "train", "sources")


class _Loader(yaml.SafeLoader):
    """PyYAML reads 2e-4 as text, and takes the last of two equal keys without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f'key "{key.value}" is there twice', key.start_mark
                )
            seen.add(str(key.value))
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
    mistakes = [mistake for text in settings if (mistake := _set(document, text))]
    if output is not None:
        _put(document, _OUTPUT, _FILE + str(output.absolute().resolve()) + "/")
    mistakes += _use_local_paths(document, file.absolute().parent)
    says_gpus = _get(document, _GPUS) is not None
    mistakes += check(document)
    if not mistakes:
        try:
            return LoadedJob(FineTuneJob.model_validate(document), says_gpus)
        except ValidationError as error:
            mistakes = [Mistake(tuple(e["loc"]), e["msg"]) for e in error.errors()]
    raise Refused(*(_line(file, node, mistake) for mistake in mistakes))


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
        near = [item.name for item in file.parent.iterdir()] if file.parent.is_dir() else []
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise Refused(f"{file}: {why}{suggestion(file.name, near)}") from error
    try:
        nodes = [node for node in yaml.compose_all(text, Loader=_Loader) if node is not None]
        documents = [value for value in yaml.load_all(text, Loader=_Loader) if value is not None]
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise Refused(f"{file}:{line}: not valid YAML: {error.problem}") from error
    jobs = [
        (node, value)
        for node, value in zip(nodes, documents, strict=True)
        if isinstance(value, dict) and value.get("kind") == FineTuneJob.KIND
    ]
    if len(jobs) != 1:
        kinds = [str(v.get("kind")) if isinstance(v, dict) else "no object" for v in documents]
        found = f"it has {', '.join(kinds)}" if kinds else "it is empty"
        raise Refused(f"{file}: one object of kind FineTuneJob is needed; {found}")
    return jobs[0]


def _set(document: dict[str, Any], text: str) -> Mistake | None:
    name, equals, value = text.partition("=")
    path: Path = tuple(name.removeprefix("spec.").split("."))
    place: Path = ("spec", *path)
    if not equals:
        return Mistake((), f"--set {text}: write FIELD=VALUE, as in hyperparameters.maxSteps=10")
    for length in range(2, len(place) + 1):
        if field_schema(place[:length]) is None:
            known = (field_schema(place[: length - 1]) or {}).get("properties", {})
            hint = suggestion(str(place[length - 1]), known)
            return Mistake((), f"--set {name}: there is no field {dotted(place[:length])}{hint}")
    is_text = (field_schema(place) or {}).get("type") == "string"
    try:
        _put(document, place, value if is_text else yaml.load(value, Loader=_Loader))  # noqa: S506
    except (yaml.YAMLError, TypeError) as error:
        return Mistake((), f"--set {text}: {' '.join(str(error).split())}")
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
    sources = _get(document, _SOURCES)
    many = len(sources) if isinstance(sources, list) else 0
    inputs = (*_INPUTS, *((*_SOURCES, number, "uri") for number in range(many)))
    mistakes = []
    for path in (*inputs, _OUTPUT):
        text = _get(document, path)
        if not isinstance(text, str) or not text:
            continue
        uri = as_uri(text, folder)
        _get(document, path[:-1])[path[-1]] = uri
        if uri.startswith("pvc://"):
            mistakes.append(Mistake(path, f"{uri} is a volume of a cluster: give a path instead"))
        if uri.startswith(_FILE) and path != _OUTPUT:
            mistakes += _missing(path, FilePath(uri.removeprefix(_FILE)))
    return mistakes


def _missing(path: Path, file: FilePath) -> list[Mistake]:
    if file.exists():
        return []
    near = [item.name for item in file.parent.iterdir()] if file.parent.is_dir() else []
    return [Mistake(path, f"{file} does not exist{suggestion(file.name, near)}")]


def _line(file: FilePath, node: yaml.Node, mistake: Mistake) -> str:
    """Say a mistake with the line of its field, or of the nearest one above it."""
    if not mistake.path:
        return mistake.sentence
    line = node.start_mark.line + 1
    for part in mistake.path:
        found = _below(node, part)
        if found is None:
            break
        line, node = found
    sentence = mistake.sentence.removeprefix(f"{dotted(mistake.path)}: ")
    return f"{file}:{line}: {dotted(mistake.path)}: {sentence}"


def _below(node: yaml.Node, part: str | int) -> tuple[int, yaml.Node] | None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == part:
                return key.start_mark.line + 1, value
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        value = node.value[part]
        return value.start_mark.line + 1, value
    return None
