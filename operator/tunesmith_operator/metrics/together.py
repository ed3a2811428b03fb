"""Runs questions at the same time, few at a time where that is asked for.

Unlike asyncio.gather, nothing goes on once one has failed. Called by the other modules of
metrics/.
"""

import asyncio
from collections.abc import Coroutine
from typing import TypeVar

Result = TypeVar("Result")


async def all_of(*asked: Coroutine[None, None, Result], at_once: int = 0) -> list[Result]:
    """Give all results, in order; at most ``at_once`` run at a time, 0 for all.

    Raises what the first to fail raised, after the others were stopped.
    """
    slots = asyncio.Semaphore(at_once or len(asked) or 1)

    async def one(question: Coroutine[None, None, Result]) -> Result:
        async with slots:
            return await question

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(question)) for question in asked]
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from None
    finally:
        # Those that waited for a slot when another failed were never started.
        for question in asked:
            question.close()
    return [task.result() for task in tasks]
