"""Pairs of rows that are nearly the same, among many, without comparing all with all.

MinHash (Broder 1997) with banding (Leskovec et al., Mining of Massive Datasets, 3.4) proposes
pairs; one byte of each minimum (b-bit MinHash, Li and König 2010) sorts out most wrong ones; what
is left is compared exactly. So no pair is wrong, and about one in a hundred at the very limit is
missed. Keeps ``bands * 4 + minima + 4`` bytes a row: 104 at a similarity of 0.85. Pure; called by
``repeats``.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from math import ceil, log
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tunesmith_trainer.data.shingles import distinct, mixed, shingles

_MOST_MINIMA = 72
_MISSED = 0.01
_SEED = 0x7E5A17
# Signing is fastest while a batch fits into the cache.
_BATCH_ROWS = 128
_BATCH_BYTES = 1 << 20
_CHUNK_PAIRS = 1 << 16
_CHUNK_SHINGLES = 200_000
# Of up to so many rows with an equal band all pairs are compared; in a larger group each row with
# its neighbours and the first, or rows made from one template would be compared all with all.
_WINDOW = 16
_DEVIATIONS = 4
_KEY_BITS = np.uint64(44)

Indices = NDArray[np.int64]


class Pairs(NamedTuple):
    """Rows that are alike, [N] each; ``first`` is below ``second``, sorted by ``second``."""

    first: Indices
    second: Indices
    similarity: NDArray[np.float64]
    """Jaccard similarity of their shingles."""


class Scheme(NamedTuple):
    """How signatures are cut into bands."""

    bands: int
    minima_a_band: int


class Signatures(NamedTuple):
    """What is kept of rows."""

    bands: NDArray[np.uint32]
    """[rows, bands]"""
    codes: NDArray[np.uint8]
    """[rows, minima]: the lowest byte of each."""
    sizes: NDArray[np.int32]
    """[rows]: shingles, repeated ones too. 0: a row without words, like no other."""


def scheme_for(similarity: float) -> Scheme:
    """Choose the longest bands that miss 1 % of the pairs at ``similarity``, and fewer above it."""
    for minima in range(12, 0, -1):
        caught = similarity**minima
        bands = 1 if caught >= 1 else ceil(log(_MISSED) / log(1 - caught))
        if bands * minima <= _MOST_MINIMA:
            return Scheme(bands, minima)
    raise ValueError(f"no scheme for a similarity of {similarity}")


def find_pairs(
    rows: Sequence[bytes], similarity: float, on_rows: Callable[[int], None] = lambda _: None
) -> Pairs:
    """Find the pairs of ``rows`` (canonical JSON) that are ``similarity`` or more alike.

    ``on_rows`` is told how many rows were signed or compared, and may raise.
    """
    if not rows:
        return _no_pairs()
    signatures = _signatures(rows, scheme_for(similarity), on_rows)
    first, second = _candidates(signatures, similarity)
    found = [
        _compare(rows, first[part], second[part], similarity, on_rows)
        for part in _chunks(signatures.sizes[first] + signatures.sizes[second])
    ]
    if not found:
        return _no_pairs()
    pairs = Pairs(*(np.concatenate(parts) for parts in zip(*found, strict=True)))
    order = np.lexsort((pairs.first, pairs.second))
    return Pairs(pairs.first[order], pairs.second[order], pairs.similarity[order])


def _no_pairs() -> Pairs:
    return Pairs(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))


def _signatures(
    rows: Sequence[bytes], scheme: Scheme, on_rows: Callable[[int], None]
) -> Signatures:
    # Made at once: laid together from batches, they would be there twice.
    result = Signatures(
        np.zeros((len(rows), scheme.bands), np.uint32),
        np.zeros((len(rows), scheme.bands * scheme.minima_a_band), np.uint8),
        np.zeros(len(rows), np.int32),
    )
    start = 0
    for batch in _batches(rows):
        end = start + len(batch)
        signed = _sign(batch, scheme)
        result.bands[start:end], result.codes[start:end] = signed.bands, signed.codes
        result.sizes[start:end] = signed.sizes
        start = end
        on_rows(len(batch))
    return result


def _batches(rows: Iterable[bytes]) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    size = 0
    for row in rows:
        batch.append(row)
        size += len(row)
        if len(batch) == _BATCH_ROWS or size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _sign(rows: Sequence[bytes], scheme: Scheme) -> Signatures:
    hashes, row = shingles(rows)
    sizes = np.bincount(row, minlength=len(rows)).astype(np.int32)
    count = scheme.bands * scheme.minima_a_band
    minima = np.zeros((count, len(rows)), np.uint32)
    if len(hashes):
        there = np.flatnonzero(sizes)
        starts = (np.cumsum(sizes) - sizes)[there]
        short = (hashes >> np.uint64(32)).astype(np.uint32)
        factors, addends = _permutations(count)
        for number in range(count):
            permuted = short * factors[number] + addends[number]
            minima[number, there] = np.minimum.reduceat(permuted, starts)
    grouped = minima.reshape(scheme.bands, scheme.minima_a_band, len(rows))
    keys = np.zeros((scheme.bands, len(rows)), np.uint64)
    for number in range(scheme.minima_a_band):
        keys = mixed(keys + grouped[:, number])
    return Signatures((keys >> np.uint64(32)).astype(np.uint32).T, minima.astype(np.uint8).T, sizes)


def _permutations(count: int) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Give factors (odd) and addends of maps of 32 bits onto themselves, the same each time."""
    random = np.random.default_rng(_SEED)
    factors = random.integers(0, 1 << 32, count, dtype=np.uint32) | np.uint32(1)
    return factors, random.integers(0, 1 << 32, count, dtype=np.uint32)


def _candidates(signatures: Signatures, similarity: float) -> tuple[Indices, Indices]:
    there = np.flatnonzero(signatures.sizes)
    kept = [np.zeros(0, np.int64)]
    rows = len(signatures.sizes)
    for band in range(signatures.bands.shape[1]):
        keys = signatures.bands[there, band]
        order = there[np.argsort(keys, kind="stable")]
        for one, other in _equal_keys(np.sort(keys, kind="stable"), order):
            first, second = np.minimum(one, other), np.maximum(one, other)
            likely = _likely(signatures, first, second, similarity)
            kept.append(first[likely] * rows + second[likely])
    both = np.unique(np.concatenate(kept))
    return both // rows, both % rows


def _equal_keys(keys: NDArray[np.uint32], order: Indices) -> Iterator[tuple[Indices, Indices]]:
    """Give pairs of rows with equal keys. ``keys`` are sorted, ``order`` are their rows."""
    for distance in range(1, _WINDOW):
        at = np.flatnonzero(keys[distance:] == keys[:-distance])
        if not len(at):
            return
        yield from _in_chunks(order[at], order[at + distance])
    begins = np.flatnonzero(np.concatenate(([True], keys[1:] != keys[:-1])))
    begin = np.repeat(begins, np.diff(np.append(begins, len(keys))))
    far = np.flatnonzero(np.arange(len(keys)) - begin >= _WINDOW)
    yield from _in_chunks(order[begin[far]], order[far])


def _in_chunks(one: Indices, other: Indices) -> Iterator[tuple[Indices, Indices]]:
    for start in range(0, len(one), _CHUNK_PAIRS):
        yield one[start : start + _CHUNK_PAIRS], other[start : start + _CHUNK_PAIRS]


def _likely(
    signatures: Signatures, first: Indices, second: Indices, similarity: float
) -> NDArray[np.bool_]:
    """Tell the pairs whose minima are equal in about the share that the similarity makes likely."""
    count = signatures.codes.shape[1]
    deviation = (count * similarity * (1 - similarity)) ** 0.5
    fewest = count * similarity - _DEVIATIONS * deviation
    equal = signatures.codes[first] == signatures.codes[second]
    return np.count_nonzero(equal, axis=1) >= fewest


def _chunks(costs: NDArray[np.int32]) -> Iterator[slice]:
    """Cut pairs into stretches of about as many shingles each."""
    number = np.cumsum(costs, dtype=np.int64) // _CHUNK_SHINGLES
    cuts = np.flatnonzero(np.diff(number)) + 1
    bounds = [0, *cuts.tolist(), len(costs)]
    return (slice(a, b) for a, b in pairwise(bounds) if a < b)


def _compare(
    rows: Sequence[bytes],
    first: Indices,
    second: Indices,
    similarity: float,
    on_rows: Callable[[int], None],
) -> Pairs:
    """Compute the Jaccard similarity of pairs from their rows, and keep those that are alike."""
    wanted, local = np.unique(np.concatenate((first, second)), return_inverse=True)
    on_rows(len(wanted))
    keys, sizes = distinct([rows[index] for index in wanted.tolist()])
    ends = np.cumsum(sizes)
    pair = np.tile(np.arange(len(first)), 2)
    lengths = sizes[local]
    within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    of_pair = keys[np.repeat((ends - sizes)[local], lengths) + within]
    mask = (np.uint64(1) << _KEY_BITS) - np.uint64(1)
    of_pair = np.sort(np.repeat(pair, lengths).astype(np.uint64) << _KEY_BITS | of_pair & mask)
    # A row has each of its shingles once, so what is there twice is of both.
    shared = of_pair[1:][of_pair[1:] == of_pair[:-1]] >> _KEY_BITS
    both = np.bincount(shared.astype(np.int64), minlength=len(first))
    either = sizes[local[: len(first)]] + sizes[local[len(first) :]] - both
    alike = both / either
    kept = alike >= similarity
    return Pairs(first[kept], second[kept], alike[kept])
