"""Brings a model to its folder and vouches for every byte of it.

The order is the promise: the manifest by its digest, each file by the manifest, the link for
engines that need one file, and the digest file last. So a pod in which anything is missing, wrong
or half there is never ready. Called by ``__main__``.
"""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from pydantic import ValidationError

from tunesmith_api.artifacts import MANIFEST, FetchReason, FileEntry, Manifest
from tunesmith_process.logs import log
from tunesmith_sidecar.fetch.errors import FetchError
from tunesmith_sidecar.fetch.settings import FetchSettings
from tunesmith_sidecar.fetch.transfer import Source

_MANIFEST_BYTES = 16 << 20
_TRIES = 2
_HASHES = 4
"""Files that are hashed side by side: hashing a file leaves the interpreter's lock free."""


def fetch_model(settings: FetchSettings, source: Source) -> None:
    """Fetch the model; nothing is left to do when it is here already. Raises FetchError."""
    # A restarted pod sandbox keeps the volume: what an earlier run vouched for is vouched for anew.
    settings.digest_file.unlink(missing_ok=True)
    manifest = _read_manifest(settings, source)
    paths = {entry: _local_path(settings.folder, entry.path) for entry in manifest.files}
    wrong = _wrong(paths, manifest.files)
    log.info("model", files=len(paths), here=len(paths) - len(wrong), uri=settings.uri)
    for _ in range(_TRIES):
        if not wrong:
            break
        for entry in wrong:
            paths[entry].unlink(missing_ok=True)
        total = sum(entry.size_bytes for entry in wrong)
        source.download([(entry.path, paths[entry]) for entry in wrong], total)
        wrong = _wrong(paths, wrong)
    if wrong:
        names = ", ".join(entry.path for entry in wrong[:3])
        raise FetchError(
            FetchReason.MODEL_REFUSED,
            f"{len(wrong)} of {len(paths)} files of {settings.uri} do not have the sha256 of its"
            f" manifest: {names}",
        )
    if settings.gguf_link is not None:
        _link(settings.gguf_link, list(paths.values()), settings.uri)
    _write(settings.digest_file, settings.digest)
    log.info("the model is here", digest=settings.digest)


def _read_manifest(settings: FetchSettings, source: Source) -> Manifest:
    data = source.read(MANIFEST, _MANIFEST_BYTES)
    found = "sha256:" + hashlib.sha256(data).hexdigest()
    if found != settings.digest:
        raise FetchError(
            FetchReason.MODEL_REFUSED,
            f"manifest.json of {settings.uri} is {found}, wanted is {settings.digest}",
        )
    try:
        return Manifest.model_validate_json(data)
    except ValidationError as error:
        raise FetchError(
            FetchReason.MODEL_REFUSED,
            f"manifest.json of {settings.uri} is no manifest: {error.error_count()} errors",
        ) from error


def _local_path(folder: Path, name: str) -> Path:
    """Give where a file goes; its name comes from a bucket that others can write to."""
    parts = name.split("/")
    is_plain = not PurePosixPath(name).is_absolute() and "\0" not in name and "\\" not in name
    if not is_plain or any(part in ("", ".", "..") for part in parts):
        raise FetchError(
            FetchReason.MODEL_REFUSED, f"the manifest names the file {ascii(name)[:200]}"
        )
    return folder / name


def _wrong(paths: dict[FileEntry, Path], entries: Sequence[FileEntry]) -> list[FileEntry]:
    """Give the entries whose file is not here, or is another one."""

    def is_right(entry: FileEntry) -> bool:
        path = paths[entry]
        if not path.is_file() or path.stat().st_size != entry.size_bytes:
            return False
        with path.open("rb") as file:
            return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest() == entry.sha256

    with ThreadPoolExecutor(_HASHES) as threads:
        return [
            e for e, right in zip(entries, threads.map(is_right, entries), strict=True) if not right
        ]


def _link(link: Path, files: Sequence[Path], uri: str) -> None:
    # A projector of a multimodal model is a GGUF file as well, and not the model.
    found = [
        path
        for path in files
        if path.suffix == ".gguf" and not path.name.lower().startswith("mmproj")
    ]
    if len(found) != 1:
        raise FetchError(
            FetchReason.MODEL_REFUSED,
            f"{uri} holds {len(found)} GGUF files, the engine takes just one. Join the parts of a"
            " split file with llama-gguf-split --merge",
        )
    link.unlink(missing_ok=True)
    link.symlink_to(found[0])


def _write(path: Path, text: str) -> None:
    new = path.with_name(path.name + ".new")
    new.write_text(text)
    new.rename(path)
