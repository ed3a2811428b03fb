"""Looks for users' regular expressions, in a process that can be stopped.

Python's ``re`` takes exponential time for some patterns and holds the interpreter's lock meanwhile
(https://github.com/python/cpython/issues/67878), so neither a thread nor a timeout in this process
would keep one user's pattern from stopping the operator. Called by ``golden``.
"""

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

import orjson
from pydantic import TypeAdapter, ValidationError

from tunesmith_operator.fetching import Unanswerable, Unanswered

_PROGRAM = Path(__file__).with_name("pattern_process.py")
# The process stops itself earlier; this is for one that cannot.
_LONGEST_SECONDS = 5.0
_FOUND = TypeAdapter(list[bool | str])


async def search_all(pairs: Sequence[tuple[str, str]]) -> list[bool]:
    """Tell for each (pattern, text) whether the pattern is found in the text.

    Raises Unanswerable, naming the pattern, for one that does not compile or takes too long.
    """
    # Isolated and without site: nothing of the environment, and a start of a few milliseconds.
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-I",
        "-S",
        str(_PROGRAM),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(_LONGEST_SECONDS):
            output, _ = await process.communicate(orjson.dumps(pairs))
    except TimeoutError as error:
        raise Unanswered("a pattern takes too long") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    try:
        found = _FOUND.validate_json(output)
    except ValidationError as error:
        # Killed, by its own limit of time or by the kernel.
        raise Unanswered("a pattern takes too long or too much memory") from error
    for (pattern, _), result in zip(pairs, found, strict=True):
        if isinstance(result, str):
            raise Unanswerable(f"the pattern {pattern[:80]!r} {result}")
    return [result is True for result in found]
