"""``python -m tunesmith_router``: the agent; with ``init`` only writes HAProxy's files.

``init`` runs before HAProxy is started and ends; the agent serves until SIGTERM and ends with 0.
"""

import asyncio
import os
import sys

from tunesmith_process.logs import configure_logs, log
from tunesmith_process.settings import SettingsError
from tunesmith_router.configuration import write_configuration
from tunesmith_router.serving import serve
from tunesmith_router.settings import parse_settings


def main() -> None:
    """Run the program. Ends with 1 and a message when it cannot start."""
    try:
        command, settings = parse_settings(os.environ, sys.argv[1:])
        configure_logs(settings.log_level, sys.stderr)
        if command == "init":
            write_configuration(settings)
        else:
            asyncio.run(serve(settings))
    except SettingsError as error:
        sys.exit(str(error))
    except OSError as error:
        log.error("cannot start", error=str(error))
        sys.exit(1)


if __name__ == "__main__":
    main()
