"""Reads TensorBoard's event files, checksums and all, without TensorBoard."""

from __future__ import annotations

import struct
from collections.abc import Iterator

# CRC-32C of b"123456789", from RFC 3720's polynomial.
CHECK_VALUE = 0xE3069283


def crc32c(data: bytes) -> int:
    """Bit by bit, as the definition has it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(data: bytes) -> int:
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def records(data: bytes) -> Iterator[bytes]:
    place = 0
    while place < len(data):
        head = data[place : place + 8]
        (length,) = struct.unpack("<Q", head)
        body = data[place + 12 : place + 12 + length]
        assert struct.unpack("<I", data[place + 8 : place + 12])[0] == masked(head)
        end = place + 12 + length
        assert struct.unpack("<I", data[end : end + 4])[0] == masked(body)
        yield body
        place = end + 4


def fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    place = 0

    def varint() -> int:
        nonlocal place
        value = shift = 0
        while True:
            byte = data[place]
            place += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while place < len(data):
        key = varint()
        kind = key & 7
        if kind == 0:
            yield key >> 3, varint()
            continue
        size = varint() if kind == 2 else {1: 8, 5: 4}[kind]
        yield key >> 3, data[place : place + size]
        place += size


def scalars(data: bytes) -> list[tuple[int, str, float]]:
    """Give (step, name, value) of all points, in the order of the file."""
    found = []
    for body in records(data):
        event = dict(fields(body))
        if 5 not in event:
            continue
        assert isinstance(event[5], bytes)
        for _, value in fields(event[5]):
            assert isinstance(value, bytes)
            scalar = dict(fields(value))
            (number,) = struct.unpack("<f", scalar[2])
            found.append((int(event.get(2, 0)), scalar[1].decode(), number))
    return found
