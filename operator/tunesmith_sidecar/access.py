"""Who may come in: compares a client's key, or the operator's token, in constant time.

Reads the key file again when it changes, at most once a second. Called by ``guard``.
"""

import hashlib
import hmac
import time
from collections.abc import Callable
from pathlib import Path

from tunesmith_process.logs import log
from tunesmith_process.settings import SettingsError
from tunesmith_sidecar.settings import Settings

_LOOK_AGAIN_SECONDS = 1.0


class Keys:
    """The accepted API keys; none are asked for when none are configured. And whose analysis is."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        """Read the keys. Raises SettingsError when the file has none."""
        self._file = settings.api_key_file
        self._clock = clock
        self._looked = clock()
        self._stamp = 0
        self._keys: tuple[bytes, ...] = ()
        self._analysis = settings.analysis_token_digest
        if settings.api_key is not None:
            self._keys = (settings.api_key.get_secret_value().strip().encode(),)
        elif self._file is not None:
            self._stamp, self._keys = _read(self._file)

    def allow(self, authorization: str | None) -> bool:
        """Tell whether a request with this Authorization header may come in."""
        if not self._keys:
            return True
        self._look_again()
        scheme, _, token = (authorization or "").partition(" ")
        given = token.strip().encode("utf-8", "surrogateescape")
        # All keys are compared, so the time does not tell which one was nearly right.
        matches = [hmac.compare_digest(given, key) for key in self._keys]
        return scheme.lower() == "bearer" and any(matches)

    def is_analysis(self, token: str) -> bool:
        """Tell whether the token is that of the operator's analysis; never without one."""
        return is_token(token, self._analysis)

    def _look_again(self) -> None:
        now = self._clock()
        if self._file is None or now - self._looked < _LOOK_AGAIN_SECONDS:
            return
        self._looked = now
        try:
            if self._file.stat().st_mtime_ns != self._stamp:
                self._stamp, self._keys = _read(self._file)
                log.info("read the API keys again", keys=len(self._keys))
        except (OSError, SettingsError) as error:
            # A file that is away for a moment must neither open the door nor close it for all.
            log.warning("kept the API keys: their file cannot be read", error=str(error))


def is_token(token: str, digest: str | None) -> bool:
    """Tell whether the token has this sha256; none has where none is known."""
    given = hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()
    return digest is not None and hmac.compare_digest(f"sha256:{given}", digest)


def _read(path: Path) -> tuple[int, tuple[bytes, ...]]:
    try:
        stamp = path.stat().st_mtime_ns
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise SettingsError(f"api_key_file: {error}") from error
    keys = tuple(line.strip() for line in lines if line.strip())
    if not keys:
        raise SettingsError(f"api_key_file: {path} holds no key")
    return stamp, keys
