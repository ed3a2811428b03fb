"""Opens a data file, compressed or not, and refuses what is no text, is cut off, or never ends.

What is wrong with a file as a whole is a UserError at once and no malformed row: nobody knows how
many rows are missing. Called by ``containers``.
"""

import gzip
import io
import zlib
from pathlib import Path
from typing import BinaryIO, NamedTuple, NoReturn, Protocol

from tunesmith_api.result import UserErrorReason
from tunesmith_trainer.outcome import UserError

COMPRESSIONS = (".gz", ".zst")
_BUFFER_BYTES = 1 << 20
_HEAD_BYTES = 8192
# Text packs 5 to 20 times, logs that repeat themselves 100 times; a bomb 1,000 times and more.
_LARGEST_RATIO = 200
_ALWAYS_FINE_BYTES = 64 << 20
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_MAGIC = {
    b"PK\x03\x04": "a ZIP archive or a document of an office program: unpack it, or export CSV",
    _GZIP: "packed with gzip: give it a name that ends in .gz",
    _ZSTD: "packed with zstd: give it a name that ends in .zst",
    b"PAR1": "a Parquet file: give it a name that ends in .parquet",
    b"%PDF": "a PDF: extract its text",
    b"SQLite": "a database: export its rows",
    b"\x80\x02": "a pickle, which could run code and is never read: convert it",
    b"\xff\xfe\0\0": "UTF-32, not UTF-8: save it as UTF-8",
    b"\xff\xfe": "UTF-16, not UTF-8: save it as UTF-8",
    b"\xfe\xff": "UTF-16, not UTF-8: save it as UTF-8",
}


class SourceFile(NamedTuple):
    """One file of a source."""

    uri: str
    path: Path

    @property
    def suffix(self) -> str:
        """Ending of its name without that of a compression, in small letters."""
        return plain_suffix(self.uri)


def plain_suffix(name: str) -> str:
    """Give the ending of a file's name, such as .csv also for a.csv.gz."""
    last = name.rpartition("/")[2].lower()
    for compression in COMPRESSIONS:
        last = last.removesuffix(compression)
    return Path(last).suffix


def open_text(file: SourceFile) -> BinaryIO:
    """Open a file whose content is text. Raises UserError (DatasetMalformed)."""
    stream = open_bytes(file)
    head = stream.peek(_HEAD_BYTES)[:_HEAD_BYTES]
    what = next((text for magic, text in _MAGIC.items() if head.startswith(magic)), "")
    if what or b"\0" in head:
        stream.close()
        refuse(file, what or _binary(head))
    return stream


def _binary(head: bytes) -> str:
    """Say of bytes that hold a NUL what they may be. Latin letters in UTF-16 have every second."""
    if any(head[odd::2].count(0) > 0.4 * len(head) for odd in (0, 1)):
        return "UTF-16 without a mark, not UTF-8: save it as UTF-8"
    line = head.count(b"\n", 0, head.index(0)) + 1
    return (
        f"binary, not text (a zero byte in line {line}): see docs/data.md for the files that can"
        " be read"
    )


def open_bytes(file: SourceFile) -> io.BufferedReader:
    """Open a file for reading its content, unpacked."""
    name = file.uri.lower()
    inner: _Unpacker
    if name.endswith(".gz"):
        inner = gzip.open(file.path, "rb")  # noqa: SIM115 - closed by _Unpacked
    elif name.endswith(".zst"):
        from backports import zstd

        inner = zstd.open(file.path, "rb")
    else:
        return io.BufferedReader(file.path.open("rb", buffering=0), _BUFFER_BYTES)
    return io.BufferedReader(_Unpacked(file, inner), _BUFFER_BYTES)


def is_compressed(file: SourceFile) -> bool:
    """Say whether the file's name ends like that of a compressed one."""
    return file.uri.lower().endswith(COMPRESSIONS)


def check_ratio(file: SourceFile, unpacked_bytes: int) -> None:
    """Raise UserError where a file unpacks to far more than data does."""
    packed = max(1, file.path.stat().st_size)
    if unpacked_bytes > max(_ALWAYS_FINE_BYTES, _LARGEST_RATIO * packed):
        refuse(
            file,
            f"suspicious: {packed} bytes unpack to more than {unpacked_bytes}, above"
            f" {_LARGEST_RATIO} times as much. If this is no attack, store it as JSON lines that"
            " are not packed",
        )


def refuse(file: SourceFile, what: str) -> NoReturn:
    """Raise the UserError (DatasetMalformed) of a file that cannot be used as a whole."""
    raise UserError(UserErrorReason.DATASET_MALFORMED, f"{file.uri} is {what}.")


class _Unpacker(Protocol):
    def read1(self, size: int, /) -> bytes: ...

    def close(self) -> object: ...


class _Unpacked(io.RawIOBase):
    """Counts what comes out of a decompressor and translates its errors."""

    def __init__(self, file: SourceFile, inner: _Unpacker) -> None:
        self._file, self._inner, self._count = file, inner, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "memoryview") -> int:  # type: ignore[override]
        try:
            # As it comes, so that what was there before a fault is counted.
            data = self._inner.read1(len(buffer))
        except EOFError:
            refuse(self._file, f"cut off after {self._count} unpacked bytes: upload it again")
        except Exception as error:
            if not isinstance(error, OSError | zlib.error) and type(error).__name__ != "ZstdError":
                raise
            if self._count == 0 and not self._is_packed():
                ending = self._file.uri.rpartition(".")[2]
                refuse(self._file, f"not packed, whatever its name says: take .{ending} off it")
            refuse(
                self._file,
                f"damaged ({error}) after {self._count} unpacked bytes: pack or upload it again",
            )
        self._count += len(data)
        check_ratio(self._file, self._count)
        buffer[: len(data)] = data
        return len(data)

    def _is_packed(self) -> bool:
        with self._file.path.open("rb") as raw:
            return raw.read(len(_ZSTD)).startswith((_GZIP, _ZSTD))

    def close(self) -> None:
        self._inner.close()
        super().close()
