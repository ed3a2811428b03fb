"""Rows of a micro-batch laid one after the other, so that nothing is computed on padding.

Rows that begin alike, as those of a chat with the same system prompt do, hold their common
beginning once: in a causal model a token's state depends on what comes before it and on nothing
else, so equal beginnings have equal states (prefix sharing, Wang et al. 2024, arXiv:2410.20305).
What comes after the last token that predicts something is left out for the same reason.

Pure: a function of the rows' tokens. Called by `batches`; `attention` undoes it where rows must
not see each other.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

Tokens = NDArray[np.int32]
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class PackedRows:
    """Where the tokens of packed rows are in the rows, and the other way round.

    The rows are imagined as a padded matrix with `rows * longest` slots.
    """

    position_ids: torch.Tensor
    """int64[1, packed]: place of each token in its row."""
    sources: torch.Tensor
    """int64[rows * longest]: the packed token in each slot; in padding any."""
    slots: torch.Tensor
    """int64[packed]: the first slot that holds each packed token."""
    shared_slots: torch.Tensor
    """int64[shared]: slots whose packed token is in an earlier slot as well."""
    shared_sources: torch.Tensor
    """int64[shared]: the packed tokens in them."""
    starts: torch.Tensor
    """int32[rows + 1]: tokens before each row, and of all rows."""
    rows: int
    longest: int

    @cached_property
    def ragged(self) -> "PackedRows":
        """The same with slots of the rows alone, one after the other without padding."""
        rows = torch.div(self.slots, self.longest, rounding_mode="floor")
        shared = torch.div(self.shared_slots, self.longest, rounding_mode="floor")
        slots = self.starts[rows] + self.slots % self.longest
        shared_slots = self.starts[shared] + self.shared_slots % self.longest
        # Every slot without padding is either a token's first one or a shared one.
        sources = self.sources.new_empty(len(slots) + len(shared_slots))
        sources[slots] = torch.arange(len(slots), device=slots.device)
        sources[shared_slots] = self.shared_sources
        return replace(self, sources=sources, slots=slots, shared_slots=shared_slots)

    def row_lengths(self) -> torch.Tensor:
        """Give int64[packed]: tokens of the row that each token is in; rows share nothing."""
        row = torch.div(self.slots, self.longest, rounding_mode="floor")
        return torch.bincount(row, minlength=self.rows)[row]

    def to(self, device: torch.device) -> "PackedRows":
        """Give the same on `device`."""
        moved = {
            f.name: getattr(self, f.name).to(device) for f in fields(self) if f.type is torch.Tensor
        }
        return replace(self, **moved)


@dataclass(frozen=True)
class Packed:
    """Rows in a line."""

    tokens: Tokens
    """[packed]"""
    places: list[Indices]
    """For each row, in the order given, the packed index of each of its tokens."""
    layout: PackedRows


def pack(rows: Sequence[Tokens], *, share: bool = True) -> Packed:
    """Lay `rows`, each with at least one token, in a line; `share` common beginnings.

    Rows are compared as text sorts, so that each shares with its neighbour all it can share with
    any: together they are a prefix tree.
    """
    order = sorted(range(len(rows)), key=lambda i: rows[i].tobytes())
    places: list[Indices] = [np.empty(0, np.int64)] * len(rows)
    parts, before, count = [], None, 0
    for index in order:
        row = rows[index]
        kept = 0 if before is None or not share else _common(rows[before], row)
        place = np.empty(len(row), np.int64)
        if before is not None:
            place[:kept] = places[before][:kept]
        place[kept:] = np.arange(count, count + len(row) - kept)
        places[index], before = place, index
        parts.append(row[kept:])
        count += len(row) - kept
    return Packed(np.concatenate(parts), places, _layout(places, count))


def _common(a: Tokens, b: Tokens) -> int:
    """Count the tokens that both begin with."""
    length = min(len(a), len(b))
    differ = np.flatnonzero(a[:length] != b[:length])
    return int(differ[0]) if len(differ) else length


def _layout(places: list[Indices], count: int) -> PackedRows:
    longest = max(len(place) for place in places)
    sources = np.zeros(len(places) * longest, np.int64)
    filled = np.concatenate(
        [np.arange(len(place)) + line * longest for line, place in enumerate(places)]
    )
    packed = np.concatenate(places)
    sources[filled] = packed
    slots = np.full(count, -1, np.int64)
    # The last assignment to an index wins, so the first slot has to come last.
    slots[packed[::-1]] = filled[::-1]
    is_shared = slots[packed] != filled
    return PackedRows(
        position_ids=torch.from_numpy(slots % longest)[None],
        sources=torch.from_numpy(sources),
        slots=torch.from_numpy(slots),
        shared_slots=torch.from_numpy(filled[is_shared]),
        shared_sources=torch.from_numpy(packed[is_shared]),
        starts=torch.from_numpy(np.cumsum([0, *map(len, places)], dtype=np.int32)),
        rows=len(places),
        longest=longest,
    )
