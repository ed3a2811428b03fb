"""A process of its own that looks for patterns: pairs as JSON in, true, false or an error out.

Limits its own time and memory, because a pattern may take any amount of both. Imports nothing of
ours, so that it starts at once. Run by ``patterns``; must not be imported.
"""

import json
import re
import resource
import signal
import sys

_SECONDS_EACH = 0.5
_SECONDS_ALL = 4
_MEMORY_BYTES = 512 << 20


class _TooSlow(Exception):
    """A pattern took its time."""


def _stop(*_: object) -> None:
    raise _TooSlow


def search(pattern: str, text: str) -> bool | str:
    """Tell whether the pattern is in the text, or what is wrong with it."""
    signal.setitimer(signal.ITIMER_REAL, _SECONDS_EACH)
    try:
        return re.search(pattern, text) is not None
    except re.error as error:
        return f"does not compile: {str(error)[:100]}"
    except _TooSlow:
        return "takes too long"
    except (RecursionError, OverflowError, MemoryError):
        return "is too large"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def main() -> None:
    """Read, look, and write."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (_SECONDS_ALL, _SECONDS_ALL))
    signal.signal(signal.SIGALRM, _stop)
    found = [search(pattern, text) for pattern, text in json.load(sys.stdin)]
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
