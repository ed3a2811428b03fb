"""Slots and marks of revisions, without HAProxy."""

from __future__ import annotations

import random
from itertools import count

import pytest

from tests.router.conftest import state
from tunesmith_api.router import RouterState
from tunesmith_router.placement import Placement, place, rising
from tunesmith_router.split import NOTHING, format_split, parse_split


def parsed(*given: object, **more: object) -> RouterState:
    return RouterState.model_validate(state(*given, **more))  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(20))
def test_a_slot_is_never_given_to_two_nor_taken_from_one_at_once(seed: int) -> None:
    chance, marks = random.Random(seed), count()
    placement, before = Placement(), None
    for _ in range(100):
        names = chance.sample([f"r{n}" for n in range(40)], chance.randint(2, 16))
        wanted = parsed(names[0], names[1], 10, of={name: [] for name in names})
        after = place(placement, before, wanted, lambda: str(next(marks)))
        assert set(after.slots) == set(names)
        assert len(set(after.slots.values())) == len(names)
        for name, slot in after.slots.items():
            assert placement.slots.get(name, slot) == slot
            # What the state before used is still in the split when this one's endpoints are added.
            assert [n for n, s in placement.slots.items() if s == slot and n != name] == []
        assert set(names[:2]) <= set(after.marks) <= set(names)
        assert len(set(after.marks.values())) == len(after.marks)
        entry = format_split(wanted.split, "x-id", after)
        read = parse_split(entry, after)
        assert read == wanted.split
        placement, before = after, wanted


def test_an_entry_of_somebody_else_is_nothing() -> None:
    placement = Placement(slots={"r1": 0}, marks={"r1": "a"})
    for entry in ("", NOTHING, "slot0:b|-|0|0|-|-", "slot0:a|slot1:c|5|0|-|r2"):
        assert parse_split(entry, placement) is None


@pytest.mark.parametrize(
    ("before", "after", "names"),
    [
        pytest.param(("r1",), ("r1", "r2", 10), ["r2"], id="a canary begins"),
        pytest.param(("r1", "r2", 10), ("r1", "r2", 20), ["r2"], id="it gets more"),
        pytest.param(("r1", "r2", 20), ("r1", "r2", 10), [], id="it gets less"),
        pytest.param(("r1", "r2", 20), ("r1",), [], id="it gets nothing"),
        pytest.param(("r1", "r2", 20), ("r2",), ["r2"], id="it is promoted"),
        pytest.param(("r2",), ("r1",), ["r1"], id="and taken back"),
    ],
)
def test_whose_share_rises(before: object, after: object, names: list[str]) -> None:
    assert rising(parsed(*before), parsed(*after)) == names  # type: ignore[misc]
