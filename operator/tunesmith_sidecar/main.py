"""``python -m tunesmith_sidecar``: serves until SIGTERM, drains, ends with 0."""

import asyncio
import gc
import os
import sys

from tunesmith_process.logs import configure_logs, log
from tunesmith_process.settings import SettingsError
from tunesmith_sidecar.serving import serve
from tunesmith_sidecar.settings import parse_settings


def main() -> None:
    """Run the program. Ends with 1 and a message when it cannot start."""
    try:
        settings = parse_settings(os.environ, sys.argv[1:])
    except SettingsError as error:
        sys.exit(str(error))
    configure_logs(settings.log_level, sys.stderr, revision=settings.revision)
    # What was imported stays for ever; a collection that walks over it is a pause for a client.
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
    try:
        asyncio.run(serve(settings))
    except SettingsError as error:
        sys.exit(str(error))
    except OSError as error:
        log.error("cannot serve", error=str(error))
        sys.exit(1)


if __name__ == "__main__":
    main()
