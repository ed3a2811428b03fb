"""Task files for lm-evaluation-harness from storage: fetched, checked, and without code.

A task file may name Python functions beside it, which the harness would run with this process's
credentials. A bucket is no place that code is taken from, so those are refused. Called by
`harness` on rank 0, before anything is trained.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from tunesmith_api.meta import Digest
from tunesmith_api.result import UserErrorReason
from tunesmith_trainer.outcome import UserError, shorten
from tunesmith_trainer.storage import ObjectInfo, Store
from tunesmith_trainer.storage.locations import as_prefix
from tunesmith_trainer.storage.manifest import digest_file

_TASKS = ".yaml"
_KEPT = (_TASKS, ".json", ".jsonl", ".csv", ".parquet", ".txt")
_MOST_FILES = 1000
_MOST_BYTES = 256 << 20


def fetch_task_files(store: Store, suite: str, uri: str, directory: Path) -> Digest:
    """Fetch the task files below `uri` with their data; give the sha256 over all of them.

    Afterwards the task files name their data by absolute paths. Raises UserError (DatasetNotFound,
    DatasetTooLarge, InvalidRun) and those of the storage.
    """
    prefix = as_prefix(uri)
    _check_listing(suite, prefix, [i for i in store.list(prefix) if _is_kept(i.relative)])
    fetched = store.download_prefix(prefix, directory, include=_is_kept)
    lines = sorted(f"{digest_file(path)}  {info.relative}\n" for info, path in fetched)
    for info, path in fetched:
        if path.suffix == _TASKS:
            _TaskFile(suite, info.uri, path, directory).settle()
    return "sha256:" + hashlib.sha256("".join(lines).encode()).hexdigest()


def _is_kept(relative: str) -> bool:
    return relative.endswith(_KEPT)


def _check_listing(suite: str, prefix: str, found: list[ObjectInfo]) -> None:
    if not any(info.relative.endswith(_TASKS) for info in found):
        raise UserError(
            UserErrorReason.DATASET_NOT_FOUND,
            f"Suite {suite}: there is no task file ({_TASKS}) below {prefix}. Correct "
            "lmEval.taskFiles.uri.",
        )
    size_bytes = sum(info.size_bytes for info in found)
    if len(found) > _MOST_FILES or size_bytes > _MOST_BYTES:
        raise UserError(
            UserErrorReason.DATASET_TOO_LARGE,
            f"Suite {suite}: below {prefix} are {len(found)} files with {size_bytes >> 20} MiB; "
            f"task files and their data may be {_MOST_FILES} files with {_MOST_BYTES >> 20} MiB. "
            "Name a folder with less in lmEval.taskFiles.uri.",
        )


class _TaskFile:
    """One task file, and what is said where something is wrong with it."""

    def __init__(self, suite: str, uri: str, path: Path, directory: Path) -> None:
        self._suite, self._uri, self._path, self._directory = suite, uri, path, directory

    def settle(self) -> None:
        """Check the file, and write it anew with absolute paths where it names data files."""
        content = self._parse()
        for included in _as_list(content.get("include")):
            if not (self._path.parent / self._plain(included, "include")).is_file():
                raise self._wrong(f"include names {_quoted(included)}, which is not there")
        sections = list(_mappings(content))
        for section in sections:
            arguments = section.get("dataset_kwargs")
            if isinstance(arguments, dict) and "data_files" in arguments:
                arguments["data_files"] = self._absolute(arguments["data_files"])
        if any("dataset_kwargs" in section for section in sections):
            self._path.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True))

    def _parse(self) -> dict[str, Any]:
        try:
            content = yaml.safe_load(self._path.read_bytes())
        except yaml.constructor.ConstructorError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            raise self._wrong(
                f"line {line}: {_problem(error)}. Functions (!function) and other tags are not "
                "taken from storage: write it with doc_to_text and the like as templates, or put "
                "a task that needs code into the image"
            ) from error
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            raise self._wrong(f"line {line}: not valid YAML: {_problem(error)}") from error
        except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
            raise self._wrong(f"not valid YAML: {shorten(str(error), 200)}") from error
        if not isinstance(content, dict):
            raise self._wrong("it is no mapping with a key such as task or group")
        return content

    def _absolute(self, files: Any) -> Any:
        if isinstance(files, dict):
            return {name: self._absolute(inner) for name, inner in files.items()}
        if isinstance(files, list):
            return [self._absolute(inner) for inner in files]
        pattern = self._plain(files, "data_files")
        if not any(self._path.parent.glob(pattern)):
            raise self._wrong(f"data_files names {_quoted(files)}, which is not there")
        return str(self._path.parent / pattern)

    def _plain(self, name: Any, field: str) -> str:
        is_text = isinstance(name, str) and bool(name) and "://" not in name
        if not is_text or PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise self._wrong(
                f"{field} names {_quoted(name)}; put the file beside the task file and write its "
                "path from there, without '..'"
            )
        return str(name)

    def _wrong(self, what: str) -> UserError:
        return UserError(UserErrorReason.INVALID_RUN, f"Suite {self._suite}: {self._uri}: {what}.")


def _problem(error: yaml.MarkedYAMLError) -> str:
    return shorten(error.problem or str(error), 200)


def _quoted(value: Any) -> str:
    return repr(shorten(str(value), 100))


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _mappings(value: Any) -> Iterator[dict[str, Any]]:
    """Give all mappings inside; a group holds tasks."""
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list):
        for inner in value:
            yield from _mappings(inner)
