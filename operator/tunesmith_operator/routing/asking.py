"""Asks pods; those that were silent lately are asked beside the passes and waited for by none.

So a pod that hangs, such as one on a node that is lost, holds up a pass once and no rollback after
that. Bounded; knows nothing of what is asked. Called by ``agents`` and ``sidecars``.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Generic, TypeVar

from tunesmith_operator.fetching import Unanswered
from tunesmith_operator.planning.serving import ServingPod
from tunesmith_operator.routing.patience import Patience

Said = TypeVar("Said")


class Asking(Generic[Said]):
    """Which pods are silent, and what goes on beside the passes: one question at a time to each."""

    def __init__(
        self, first_seconds: float, longest_seconds: float, *, quick_seconds: float = 0.0
    ) -> None:
        """Pauses between questions to a silent pod; what fails in ``quick_seconds`` is no silence.

        Such as a pod that starts and refuses connections: to ask it again costs a pass nothing.
        """
        self._silent = Patience(time.monotonic, first_seconds, longest_seconds)
        self._quick_seconds = quick_seconds
        self._beside: dict[str, asyncio.Task[None]] = {}

    def is_silent(self, pod: ServingPod) -> bool:
        """Whether it did not answer when it was asked last."""
        return bool(self._silent.trouble(pod.uid))

    async def ask(self, pod: ServingPod, question: Callable[[], Awaitable[Said]]) -> Said:
        """Give the answer. Raises Unanswered, at once where the pod was silent lately."""
        trouble = self._silent.trouble(pod.uid)
        if not trouble:
            return await self._ask(pod, question)
        if self._silent.is_due(pod.uid) and pod.uid not in self._beside:
            task = asyncio.create_task(self._try(pod, question), name=f"ask {pod.name}")
            self._beside[pod.uid] = task
            task.add_done_callback(lambda _: self._beside.pop(pod.uid, None))
        raise Unanswered(trouble)

    def close(self) -> None:
        """End what goes on."""
        for task in self._beside.values():
            task.cancel()

    async def _try(self, pod: ServingPod, question: Callable[[], Awaitable[Said]]) -> None:
        with suppress(Unanswered):
            await self._ask(pod, question)

    async def _ask(self, pod: ServingPod, question: Callable[[], Awaitable[Said]]) -> Said:
        began = time.monotonic()
        try:
            said = await question()
        except Unanswered as error:
            if time.monotonic() - began >= self._quick_seconds:
                self._silent.failed(pod.uid, str(error))
            else:
                self._silent.succeeded(pod.uid)
            raise
        self._silent.succeeded(pod.uid)
        return said
