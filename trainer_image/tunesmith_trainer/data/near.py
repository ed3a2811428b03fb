"""Pairs of rows that are nearly the same, among many, without comparing all with all.

MinHash (Broder 1997) with banding (Leskovec et al., Mining of Massive Datasets, 3.4) proposes
pairs; one byte of each minimum (b-bit MinHash, Li and König 2010) sorts out most wrong ones; what
is left is compared exactly. So no pair is wrong, and about one in a hundred at the very limit is
missed. Keeps ``bands * 4 + minima + 12`` bytes a row on the disk, 112 at a similarity of 0.85, and
24 a pair; memory does not grow with either. Called by ``repeats``.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from math import ceil, log
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tunesmith_trainer.data.keys import Packed, lower_of, packed, upper_of
from tunesmith_trainer.data.scratch import CHUNK, Column, Scratch, chunks
from tunesmith_trainer.data.shingles import distinct, mixed, shingles

_MOST_MINIMA = 72
_MISSED = 0.01
_SEED = 0x7E5A17
# Signing is fastest while a batch fits into the cache.
_BATCH_ROWS = 128
_BATCH_BYTES = 1 << 20
_CHUNK_SHINGLES = 200_000
# Of up to so many rows with an equal band all pairs are compared; in a larger group each row with
# its neighbours and the first, or rows made from one template would be compared all with all.
_WINDOW = 16
_DEVIATIONS = 4
_KEY_BITS = np.uint64(44)

Indices = NDArray[np.int64]


class Pairs(NamedTuple):
    """Rows that are alike, [N] each; ``first`` is below ``second``, sorted by ``second``."""

    first: NDArray[np.int32]
    second: NDArray[np.int32]
    similarity: NDArray[np.float64]
    """Jaccard similarity of their shingles."""

    def similarity_of(self, one: int, other: int) -> float:
        """Give the similarity of a pair that is there, or of a row with itself."""
        if one == other:
            return 1.0
        first, second = sorted((one, other))
        start, end = np.searchsorted(self.second, (second, second + 1))
        return float(self.similarity[start + np.searchsorted(self.first[start:end], first)])


class Scheme(NamedTuple):
    """How signatures are cut into bands."""

    bands: int
    minima_a_band: int


class Signatures(NamedTuple):
    """What is kept of rows."""

    bands: NDArray[np.uint32]
    """[bands, rows]"""
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
    rows: Sequence[bytes],
    similarity: float,
    scratch: Scratch,
    on_rows: Callable[[int], None] = lambda _: None,
) -> Pairs:
    """Find the pairs of ``rows`` (canonical JSON) that are ``similarity`` or more alike.

    ``on_rows`` is told how many rows were signed or compared, and may raise.
    """
    signatures = _signatures(rows, scheme_for(similarity), scratch, on_rows)
    candidates = _candidates(signatures, similarity, scratch)
    firsts, seconds = scratch.column(np.int32), scratch.column(np.int32)
    similarities = scratch.column(np.float64)
    for part in chunks(len(candidates)):
        first, second = lower_of(candidates[part]), upper_of(candidates[part])
        for some in _stretches(signatures.sizes[first] + signatures.sizes[second]):
            found = _compare(rows, first[some], second[some], similarity, on_rows)
            firsts.append(found.first)
            seconds.append(found.second)
            similarities.append(found.similarity)
    return Pairs(firsts.array(), seconds.array(), similarities.array())


def _signatures(
    rows: Sequence[bytes], scheme: Scheme, scratch: Scratch, on_rows: Callable[[int], None]
) -> Signatures:
    result = Signatures(
        scratch.zeros((scheme.bands, len(rows)), np.uint32),
        scratch.zeros((len(rows), scheme.bands * scheme.minima_a_band), np.uint8),
        scratch.zeros(len(rows), np.int32),
    )
    start = 0
    for batch in _batches(rows):
        end = start + len(batch)
        signed = _sign(batch, scheme)
        result.bands[:, start:end], result.codes[start:end] = signed.bands, signed.codes
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
    return Signatures((keys >> np.uint64(32)).astype(np.uint32), minima.astype(np.uint8).T, sizes)


def _permutations(count: int) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Give factors (odd) and addends of maps of 32 bits onto themselves, the same each time."""
    random = np.random.default_rng(_SEED)
    factors = random.integers(0, 1 << 32, count, dtype=np.uint32) | np.uint32(1)
    return factors, random.integers(0, 1 << 32, count, dtype=np.uint32)


def _candidates(signatures: Signatures, similarity: float, scratch: Scratch) -> Packed:
    """Give the pairs with an equal band that are likely: the second row above the first, sorted."""
    kept = scratch.zeros(0, np.uint64)
    order = scratch.zeros(len(signatures.sizes), np.uint64)
    found, count = scratch.column(np.uint64), 0
    for band in signatures.bands:
        for one, other in _equal_bands(_sorted(band, signatures.sizes, order)):
            first, second = np.minimum(one, other), np.maximum(one, other)
            likely = _likely(signatures, first, second, similarity)
            found.append(packed(second[likely], first[likely]))
            count += int(np.count_nonzero(likely))
        # A pair may be found in each band. So what waits is bounded by what is kept.
        if count > max(CHUNK, len(kept)):
            kept, found, count = _once(kept, found, scratch), scratch.column(np.uint64), 0
    return _once(kept, found, scratch)


def _sorted(band: NDArray[np.uint32], sizes: NDArray[np.int32], order: Packed) -> Packed:
    """Give the values of a band, each with its row below it; ``order`` is where they are put."""
    count = 0
    for part in chunks(len(band)):
        there = part.start + np.flatnonzero(sizes[part])
        order[count : count + len(there)] = packed(band[there], there)
        count += len(there)
    order[:count].sort()  # in place, on the disk
    return order[:count]


def _equal_bands(order: Packed) -> Iterator[tuple[Indices, Indices]]:
    """Give pairs of rows with equal values of a band."""
    begin = 0
    for part in chunks(len(order)):
        rows = lower_of(order[part.start : part.stop + _WINDOW])
        values = upper_of(order[part.start : part.stop + _WINDOW])
        count = part.stop - part.start
        for distance in range(1, _WINDOW):
            at = np.flatnonzero(values[distance:][:count] == values[:-distance][:count])
            if not len(at):
                break
            yield rows[at], rows[at + distance]
        places = np.arange(part.start, part.stop)
        is_first = np.empty(count, np.bool_)
        is_first[1:] = values[1:count] != values[: count - 1]
        is_first[0] = not part.start or order[part.start] >> 32 != order[part.start - 1] >> 32
        begins = np.maximum.accumulate(np.where(is_first, places, begin))
        begin = int(begins[-1])
        far = places - begins >= _WINDOW
        yield lower_of(order[begins[far]]), rows[:count][far]


def _once(kept: Packed, found: Column, scratch: Scratch) -> Packed:
    """Give what is kept and what was found, sorted, each once."""
    for part in chunks(len(kept)):
        found.append(kept[part])
    every = found.array()
    every.sort()  # in place, on the disk
    result = scratch.column(np.uint64)
    for part in chunks(len(every)):
        before = every[max(0, part.start - 1) : part.stop]
        is_new = before[1:] != before[:-1]
        result.append(before[:1] if not part.start else before[:0])
        result.append(before[1:][is_new])
    return result.array()


def _likely(
    signatures: Signatures, first: Indices, second: Indices, similarity: float
) -> NDArray[np.bool_]:
    """Tell the pairs whose minima are equal in about the share that the similarity makes likely."""
    count = signatures.codes.shape[1]
    deviation = (count * similarity * (1 - similarity)) ** 0.5
    fewest = count * similarity - _DEVIATIONS * deviation
    equal = signatures.codes[first] == signatures.codes[second]
    return np.count_nonzero(equal, axis=1) >= fewest


def _stretches(costs: NDArray[np.int32]) -> Iterator[slice]:
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
    return Pairs(first[kept].astype(np.int32), second[kept].astype(np.int32), alike[kept])
