"""Brings the files of a source to this machine: from S3, a volume, the Hub, or this disk.

Called by ``gathering``. Which files of a folder are data is decided by their names.
"""

import re
from collections.abc import Callable, Iterable
from pathlib import Path

from tunesmith_api.dataset import DataFormat
from tunesmith_api.result import UserErrorReason
from tunesmith_api.run import CREDENTIALS_PATH, PVC_PATH
from tunesmith_trainer.data.compression import SourceFile, plain_suffix
from tunesmith_trainer.data.containers import JSON_SUFFIXES, TABLE_SUFFIXES, TEXT_SUFFIXES
from tunesmith_trainer.data.textfiles import TEXT_FORMATS
from tunesmith_trainer.outcome import UserError
from tunesmith_trainer.storage import Storage
from tunesmith_trainer.storage.locations import local_path

_HUB = "hf://datasets/"
# Written by the datasets library beside the rows.
_NO_DATA = frozenset({"dataset_infos.json", "dataset_info.json", "dataset_dict.json", "state.json"})
# Copies that Jupyter keeps, notes of macOS and of office programs: nobody means them by a folder.
_HIDDEN = re.compile(r"(?:^|/)(?:\.|~\$|__MACOSX/)")
_TRAIN = re.compile(r"(?:^|[/_.-])train(?:[/_.-]|\d|$)", re.IGNORECASE)
_REFERENCE = re.compile(r"refs/[a-z]+/[^/]+")
_HELP = "Files are .jsonl, .json, .csv, .parquet or .txt, each also .gz or .zst."


def find_files(
    uri: str,
    storage: Callable[[], Storage],
    directory: Path,
    on_bytes: Callable[[int], None],
    wanted: DataFormat = DataFormat.AUTO,
) -> list[SourceFile]:
    """Bring the files of ``uri`` to this machine, in the order of their names.

    A folder stands for all data files below it. Raises UserError (DatasetNotFound, InvalidRun),
    and those of the storage and the Hub.
    """
    if uri.startswith("pvc://"):
        return _local_files(uri, Path(PVC_PATH), uri.removeprefix("pvc://"), wanted)
    if uri.startswith("file://"):
        return _local_files(uri, Path("/"), uri.removeprefix("file:///"), wanted)
    if uri.startswith(_HUB):
        return _hub_files(uri, directory, wanted)
    if uri.endswith("/"):
        store = storage()
        chosen = data_files((info.relative for info in store.list(uri)), wanted)
        found = store.download_prefix(uri, directory, on_bytes, include=chosen.__contains__)
        return [SourceFile(info.uri, path) for info, path in found]
    path = local_path(directory, uri.rpartition("/")[2])
    storage().download(uri, path, on_bytes)
    return [SourceFile(uri, path)]


def data_files(names: Iterable[str], wanted: DataFormat) -> list[str]:
    """Give the names that are data, in order; they begin below the folder that was asked for.

    Beside other data a text file is a note to people, unless a format of text was asked for.
    """
    seen = (name for name in names if not _HIDDEN.search(name))
    known = sorted(name for name in seen if name.rpartition("/")[2] not in _NO_DATA)
    rows = [name for name in known if plain_suffix(name) in JSON_SUFFIXES + TABLE_SUFFIXES]
    texts = [name for name in known if plain_suffix(name) in TEXT_SUFFIXES]
    if wanted in TEXT_FORMATS:
        return sorted(rows + texts)
    return rows or (texts if wanted is DataFormat.AUTO else [])


def parse_hub_uri(uri: str) -> tuple[str, str, str]:
    """Take hf://datasets/ORGANIZATION/NAME[@REVISION][/PATH] apart: name, revision, path."""
    organization, _, rest = uri.removeprefix(_HUB).rstrip("/").partition("/")
    name, at, behind = rest.partition("@")
    if not at:
        name, _, path = rest.partition("/")
        return f"{organization}/{name}", "", path
    reference = _REFERENCE.match(behind)
    revision = reference[0] if reference else behind.partition("/")[0]
    return f"{organization}/{name}", revision, behind[len(revision) + 1 :]


def hub_selection(names: Iterable[str], path: str, wanted: DataFormat) -> list[str]:
    """Give the files of a Hub data set that are taken.

    Without a path only those of its train split, where names say which that is: test rows of the
    same data set must not be trained on.
    """
    if path:
        start, listed = f"{path}/", list(names)
        below = (name.removeprefix(start) for name in listed if name.startswith(start))
        return [path] if path in listed else [start + name for name in data_files(below, wanted)]
    chosen = data_files(names, wanted)
    return [name for name in chosen if _TRAIN.search(name)] or chosen


def _hub_files(uri: str, directory: Path, wanted: DataFormat) -> list[SourceFile]:
    # Imported here: the Hub's client takes a second to load and most runs do not need it.
    from tunesmith_trainer.hub import fetch_dataset

    name, revision, path = parse_hub_uri(uri)
    tokens = [Path(CREDENTIALS_PATH) / role / "HF_TOKEN" for role in ("dataset", "model")]
    token_file = next((token for token in tokens if token.is_file()), tokens[0])
    files = fetch_dataset(
        name,
        revision,
        directory,
        lambda names: hub_selection(names, path, wanted),
        token_file,
    )
    if not files:
        raise _nothing(uri, "has no data files")
    return [SourceFile(f"{_HUB}{name}/{file}", local_path(directory, file)) for file in files]


def _local_files(uri: str, root: Path, relative: str, wanted: DataFormat) -> list[SourceFile]:
    scheme = uri.partition("://")[0]
    path = local_path(root, relative.rstrip("/"))
    if path.is_file():
        return [SourceFile(uri, path)]
    below = (p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file())
    names = data_files(below, wanted)
    if not names:
        raise _nothing(uri, "is neither a file nor a folder with data files")
    folder = path.relative_to(root).as_posix()
    start = f"{scheme}:///{folder}/" if scheme == "file" else f"{scheme}://{folder}/"
    return [SourceFile(f"{start}{name}", local_path(path, name)) for name in names]


def _nothing(uri: str, what: str) -> UserError:
    return UserError(
        UserErrorReason.DATASET_NOT_FOUND,
        f"{uri} {what}. Correct the URI in spec.dataset. {_HELP}",
    )
