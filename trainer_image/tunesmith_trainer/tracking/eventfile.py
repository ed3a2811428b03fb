"""TensorBoard's event file: scalars by step, in a file that can be gone on with.

A record is its length, a checksum of the length, an `Event` message and a checksum of that
(tensorflow/core/lib/io/record_writer.h); of the messages (core/util/event.proto) only scalars are
needed. Written here because the libraries cannot append to a file, name it themselves and import
far more than they write. Called by `session`.
"""

import struct
from collections.abc import Mapping
from pathlib import Path

_CASTAGNOLI = 0x82F63B78
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5


class EventFile:
    """One file, which TensorBoard may read while it grows."""

    def __init__(self, path: Path, begun: bytes = b"", *, now: float) -> None:
        """Write `path` anew: `begun` is what a checkpoint has of it; `now` is in Unix seconds."""
        self.path = path
        head = _fixed64(1, now) + _bytes(3, b"brain.Event:2")
        path.write_bytes(begun or record(head))

    def add(self, step: int, values: Mapping[str, float], now: float) -> None:
        """Append the values of a step; `now` is in Unix seconds."""
        summary = b"".join(_bytes(1, _scalar(name, value)) for name, value in values.items())
        event = _fixed64(1, now) + _varint_field(2, step) + _bytes(5, summary)
        with self.path.open("ab") as file:
            file.write(record(event))


def record(data: bytes) -> bytes:
    """Frame a message."""
    length = struct.pack("<Q", len(data))
    return length + _checksum(length) + data + _checksum(data)


def _scalar(name: str, value: float) -> bytes:
    return _bytes(1, name.encode()) + _key(2, _FIXED32) + struct.pack("<f", value)


def _key(field: int, kind: int) -> bytes:
    return _varint(field << 3 | kind)


def _fixed64(field: int, value: float) -> bytes:
    return _key(field, _FIXED64) + struct.pack("<d", value)


def _varint_field(field: int, value: int) -> bytes:
    return _key(field, _VARINT) + _varint(value)


def _bytes(field: int, data: bytes) -> bytes:
    return _key(field, _LENGTH) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _table() -> tuple[int, ...]:
    entries = []
    for entry in range(256):
        for _ in range(8):
            entry = entry >> 1 ^ (_CASTAGNOLI if entry & 1 else 0)  # noqa: PLW2901
        entries.append(entry)
    return tuple(entries)


_TABLE = _table()


def _checksum(data: bytes) -> bytes:
    """Give the masked CRC-32C, as four bytes."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
