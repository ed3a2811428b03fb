"""URIs, keys and local paths: taken apart once, and never trusted.

A key comes from a bucket that others can write to, so on its way to a local path it is checked
as if it were hostile. Pure but for resolving links of the local path.
"""

from pathlib import Path, PurePosixPath
from typing import NamedTuple

from tunesmith_api.result import UserErrorReason
from tunesmith_trainer.outcome import UserError, shorten

FILE_SCHEME = "file://"


class Location(NamedTuple):
    """Bucket and key of an ``s3://`` URI; the key of a whole bucket is empty."""

    bucket: str
    key: str


def parse(uri: str) -> Location:
    """Take an ``s3://BUCKET/KEY`` apart.

    Raises UserError (InvalidRun) for anything else, and for a key that climbs out.
    """
    scheme, _, rest = uri.partition("://")
    bucket, _, key = rest.partition("/")
    if scheme != "s3" or not bucket:
        raise UserError(UserErrorReason.INVALID_RUN, f"{shorten(uri, 200)} is not an s3:// URI.")
    if key and not _is_plain(key.removesuffix("/")):
        raise _unsafe(key)
    return Location(bucket, key)


def file_path(uri: str) -> Path:
    """Return the path of a ``file:///PATH`` URI. Raises UserError (InvalidRun) for anything else.

    Unlike a key it is the user's own word for a place on the user's own machine.
    """
    path = Path(uri.removeprefix(FILE_SCHEME))
    if not uri.startswith(FILE_SCHEME) or not path.is_absolute():
        raise UserError(
            UserErrorReason.INVALID_RUN, f"{shorten(uri, 200)} is not a file:///PATH URI."
        )
    return path


def as_prefix(uri: str) -> str:
    """Return the URI with one slash at its end, so that data/ does not stand for data2/."""
    return uri.rstrip("/") + "/"


def local_path(directory: Path, relative: str) -> Path:
    """Return where the object ``relative`` to a prefix goes below ``directory``.

    Raises UserError (InvalidRun) for a name that is empty, absolute, holds ``..`` or a NUL, or
    leads out of ``directory`` over a link.
    """
    if not _is_plain(relative):
        raise _unsafe(relative)
    path = directory / relative
    if not path.resolve().is_relative_to(directory.resolve()):
        raise _unsafe(relative)
    return path


def _is_plain(name: str) -> bool:
    parts = name.split("/")
    return (
        bool(name)
        and not PurePosixPath(name).is_absolute()
        and "\0" not in name
        and "\\" not in name
        and all(part not in ("", ".", "..") for part in parts)
    )


def _unsafe(name: str) -> UserError:
    return UserError(
        UserErrorReason.INVALID_RUN,
        f"The key {shorten(ascii(name), 200)} is not used: a key must be a plain relative path"
        " without '..', empty parts or control characters. Rename the object.",
    )
