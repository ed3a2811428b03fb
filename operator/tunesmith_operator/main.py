"""``python -m tunesmith_operator --config FILE``: reads the configuration, runs until SIGTERM."""

import argparse
import asyncio
import gc
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path

import structlog

from tunesmith_operator.assembly import Operator, install_signals
from tunesmith_operator.config import Config, ConfigError, parse_config
from tunesmith_operator.kube.connection import connect
from tunesmith_operator.kube.transport import Interceptor
from tunesmith_operator.logs import configure_logs

log = structlog.get_logger(__name__)

_SHORTEST_KEY = 32
DEFAULT_CONFIG = Path("/etc/tunesmith/config.yaml")


def tune_garbage_collection() -> None:
    """Leave what was imported alone and look less often: a sixth of the CPU time in a burst."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


async def run(
    config: Config, kubeconfig: Path | None = None, interceptors: Sequence[Interceptor] = ()
) -> None:
    """Connect and run until SIGTERM. ``interceptors`` see every call, see kube/transport.py.

    Raises ConfigError where the routers' key cannot be used.
    """
    key = read_router_key(config.serving.router.key_file)
    operator = Operator(config, await connect(kubeconfig), interceptors, router_key=key)
    install_signals(operator.stop)
    await operator.run()


def read_router_key(path: str) -> str:
    """Read the secret that the tokens of router agents and of the analysis are derived from.

    Without a file it is made up: then each start of the operator restarts all routers, and serving
    pods from before it answer no golden prompts. Raises ConfigError for one that could be guessed.
    """
    if not path:
        log.warning("serving.router.keyFile is not set: pods get new tokens at every start")
        return secrets.token_hex(32)
    try:
        key = Path(path).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"serving.router.keyFile {path} cannot be read: {error}") from error
    if len(key) < _SHORTEST_KEY:
        raise ConfigError(
            f"serving.router.keyFile {path} has {len(key)} characters, and {_SHORTEST_KEY} are"
            " needed: put a longer random text into the Secret of the chart's value"
            ' serving.router.keySecret, key "key"'
        )
    return key


def main() -> None:
    """Run the program. Ends with 1 and a message when it cannot start or a part of it dies."""
    parser = argparse.ArgumentParser(prog="tunesmith-operator", description=__doc__)
    parser.add_argument("--config", type=Path, default=DEFAULT_CONFIG)
    parser.add_argument("--kubeconfig", type=Path, help="instead of the pod's service account")
    arguments = parser.parse_args()
    try:
        config = parse_config(arguments.config.read_text())
    except (OSError, ConfigError) as error:
        sys.exit(f"{arguments.config}: {error}")
    configure_logs(config.log_level)
    tune_garbage_collection()
    try:
        asyncio.run(run(config, arguments.kubeconfig))
    except ConfigError as error:
        sys.exit(f"{arguments.config}: {error}")
    except Exception:
        # Kubernetes starts a whole operator; half of one would look alive and do nothing.
        log.exception("a part of the operator has died")
        sys.exit(1)


if __name__ == "__main__":
    main()
