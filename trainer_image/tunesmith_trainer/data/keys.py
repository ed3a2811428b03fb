"""What stands for the contents of rows: 16 bytes each, many of them as one array. Pure.

Called by ``repeats``, ``splitting`` and ``synthesis``, which compare rows by their keys, and by
``near`` for the order of its bands. Arrays of rows are on the disk (``scratch``) and sorted there.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tunesmith_trainer.data.scratch import CHUNK, Scratch, chunks

Keys = NDArray[np.uint64]
"""[N, 2]: in the order of the bytes they are made of."""
Packed = NDArray[np.uint64]
"""[N]: a number of 32 bits above one of 32 bits, such as the place that it is of."""

_HALF = np.uint64(32)
_LOWER = np.uint64((1 << 32) - 1)


class Groups(NamedTuple):
    """Equal keys, numbered in the order in which they first come."""

    numbers: NDArray[np.int32]
    """[N]: the group of each key."""
    firsts: NDArray[np.int32]
    """[groups]: the place of each group's first key."""


def as_keys(digests: Iterable[bytes], scratch: Scratch) -> Keys:
    """Give digests of 16 bytes as keys."""
    column = scratch.column(np.uint64, width=2)
    left = iter(digests)
    while data := b"".join(islice(left, CHUNK)):
        column.append(np.frombuffer(data, ">u8"))
    return column.array()


def key_bytes(key: Keys) -> bytes:
    """Give the digest that a key, [2], was made of."""
    return key.astype(">u8").tobytes()


def packed(upper: NDArray[Any], lower: NDArray[Any]) -> Packed:
    """Put pairs of numbers below 2^32 into one each."""
    return upper.astype(np.uint64) << _HALF | lower.astype(np.uint64)


def upper_of(values: Packed) -> NDArray[np.int64]:
    """Give the upper number of each pair."""
    return (values >> _HALF).astype(np.int64)


def lower_of(values: Packed) -> NDArray[np.int64]:
    """Give the lower number of each pair."""
    return (values & _LOWER).astype(np.int64)


def grouped(keys: Keys, scratch: Scratch) -> Groups:
    """Find the equal ones among keys."""
    numbers = scratch.zeros(len(keys), np.int32)
    for places, heads in _equal_keys(keys, scratch):
        numbers[places] = heads
    # Here a number is the place of the first equal key, and becomes that key's own number. A first
    # key comes before its equals, so it has its number by then.
    firsts = scratch.column(np.int32)
    count = 0
    for part in chunks(len(keys)):
        first = numbers[part].copy()
        own = np.flatnonzero(first == np.arange(part.start, part.stop))
        numbers[part.start + own] = np.arange(count, count + len(own))
        numbers[part] = numbers[first]
        firsts.append(part.start + own)
        count += len(own)
    return Groups(numbers, firsts.array())


def _equal_keys(keys: Keys, scratch: Scratch) -> Iterator[tuple[NDArray, NDArray]]:
    """Give all places, and with each the first place of an equal key."""
    order = _by_upper_bits(len(keys), lambda part: keys[part, 0], scratch)
    # A run of keys with the same upper bits may be longer than a piece, as all rows may be equal.
    # What it holds so far goes on to the next piece: the first of each of its distinct keys.
    held = np.zeros(0, np.int64)
    for part in _pieces(order):
        places = np.concatenate((held, lower_of(order[part])))
        found = keys[places]
        # Sorting is stable: the first of equal keys is the one that comes first.
        by_key = np.lexsort((found[:, 1], found[:, 0]))
        places, found = places[by_key], found[by_key]
        begins = np.ones(len(places), np.bool_)
        begins[1:] = (found[1:] != found[:-1]).any(axis=1)
        heads = places[begins]
        yield places, heads[np.cumsum(begins) - 1]
        is_cut = part.stop < len(order) and _is_same_run(order, part.stop)
        held = heads if is_cut else held[:0]


def ordered(columns: Sequence[NDArray[np.uint64]], scratch: Scratch) -> NDArray[np.int32]:
    """Give the places in the order of the columns, the first above all; equal ones as they come.

    Memory holds the longest run of rows with equal upper bits in the first column, which are to be
    hashes.
    """
    order = _by_upper_bits(len(columns[0]), lambda part: columns[0][part], scratch)
    result = scratch.zeros(len(order), np.int32)
    start = 0
    for part in _pieces(order):
        if part.stop < len(order) and _is_same_run(order, part.stop):
            continue
        places = lower_of(order[start : part.stop])
        by_value = np.lexsort([column[places] for column in reversed(columns)])
        result[start : part.stop] = places[by_value]
        start = part.stop
    return result


def _by_upper_bits(
    count: int, values: Callable[[slice], NDArray[np.uint64]], scratch: Scratch
) -> Packed:
    """Give places below the upper half of what ``values`` are there, sorted."""
    order = scratch.zeros(count, np.uint64)
    for part in chunks(count):
        order[part] = packed(values(part) >> _HALF, np.arange(part.start, part.stop))
    order.sort()  # in place, on the disk
    return order


def _pieces(order: Packed) -> Iterator[slice]:
    """Cut between runs of equal upper halves, and within those that are longer than a piece."""
    start = 0
    while start < len(order):
        stop = min(start + CHUNK, len(order))
        if stop < len(order):
            begin = start + int(np.searchsorted(order[start:stop], order[stop] & ~_LOWER))
            stop = begin if begin > start else stop
        yield slice(start, stop)
        start = stop


def _is_same_run(order: Packed, place: int) -> bool:
    return bool(order[place] >> _HALF == order[place - 1] >> _HALF)
