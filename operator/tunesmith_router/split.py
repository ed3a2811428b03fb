"""The split as HAProxy keeps it: one entry of its map, so that it changes at once.

Pure. Called by ``router``, which writes and reads it; taken apart by haproxy.cfg.
"""

from tunesmith_api.router import RouterSplit
from tunesmith_router.placement import Placement, slot_name

SPLIT_KEY = "split"
_NONE = "-"
NOTHING = "|".join([_NONE, _NONE, "0", "0", _NONE, _NONE])
"""The entry of a router that was never told."""


def format_split(split: RouterSplit, sticky_header: str, placement: Placement) -> str:
    """Give the entry for a split whose revisions have their places."""
    fields = (
        _target(split.main, placement),
        _target(split.canary, placement) if split.canary else _NONE,
        str(split.weight),
        str(split.mirror_percent),
        sticky_header or _NONE,
        split.canary or _NONE,
    )
    return "|".join(fields)


def parse_split(entry: str, placement: Placement) -> RouterSplit | None:
    """Give what an entry says; None where it names nobody we know."""
    try:
        main, canary, weight, mirror, _, _ = entry.split("|")
    except ValueError:
        return None
    names = {_target(name, placement): name for name in placement.marks}
    if main not in names or (canary != _NONE and canary not in names):
        return None
    return RouterSplit(
        main=names[main],
        canary=names.get(canary),
        weight=int(weight),
        mirror_percent=int(mirror),
    )


def _target(name: str, placement: Placement) -> str:
    return f"{slot_name(placement.slots[name])}:{placement.marks[name]}"
