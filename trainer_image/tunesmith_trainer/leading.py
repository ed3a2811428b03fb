"""Work of rank 0 alone that needs the model now and then, which takes all ranks if it is in parts.

Rank 0 does the work and gives orders; the others know nothing of it and compute what they are told
to. So rank 0 may fail or end in between: nobody waits for a forward pass that does not come. Called
by `evaluation`; must not know what is computed.
"""

from collections.abc import Callable
from typing import TypeVar

from tunesmith_trainer.distributed import Ranks
from tunesmith_trainer.logs import log
from tunesmith_trainer.outcome import Interrupted
from tunesmith_trainer.stopping import StopSignal

_Found = TypeVar("_Found")
_Order = TypeVar("_Order")
_Reply = TypeVar("_Reply")


def lead(
    ranks: Ranks,
    stop: StopSignal,
    work: Callable[[Callable[[_Order], _Reply]], _Found],
    compute: Callable[[_Order], _Reply],
) -> _Found:
    """Run `work` on rank 0 and give all ranks what it found; all of them must call this.

    What `work` needs the model for, it asks of the function it is given, which is `compute` on all
    ranks at once where the model is in parts, and on rank 0 otherwise. An order can be pickled, is
    in host memory, and is not None.

    Raises on rank 0 what `work` raises, and Interrupted on the other ranks then; after SIGTERM to
    any rank whose part is needed Interrupted on all. An order on which some ranks fail and others
    do not is a hang, as in training.
    """

    def led() -> _Found:
        try:
            return work(_orders(ranks, stop, compute))
        finally:
            if ranks.is_sharded:
                ranks.from_main(None)

    if ranks.is_sharded and not ranks.is_main:
        _follow(ranks, stop, compute)
    return ranks.on_main(led)


def _orders(
    ranks: Ranks, stop: StopSignal, compute: Callable[[_Order], _Reply]
) -> Callable[[_Order], _Reply]:
    def ask(order: _Order) -> _Reply:
        if ranks.is_sharded:
            ranks.from_main(order)
        if _is_stopped(ranks, stop):
            raise Interrupted
        return compute(order)

    return ask


def _follow(ranks: Ranks, stop: StopSignal, compute: Callable[[_Order], _Reply]) -> None:
    order: _Order | None
    while (order := ranks.from_main(None)) is not None:
        if _is_stopped(ranks, stop):
            continue  # rank 0 says that it is over
        try:
            compute(order)
        except Exception as error:
            # Rank 0 has met the same one, and knows whether the work goes on without it.
            log.warning("failed as rank 0 did", rank=ranks.rank, error=str(error)[:300])


def _is_stopped(ranks: Ranks, stop: StopSignal) -> bool:
    return ranks.any(stop.requested) if ranks.is_sharded else stop.requested
