"""Where the command line writes: results to standard output, all else to standard error.

Light, so that `--help` and mistakes are there at once. Called by all of ``tunesmith_cli``.
"""

from rich.console import Console

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)
