"""Whether a request comes from the operator: compares its token, in constant time.

Called by ``app``.
"""

import hmac

from tunesmith_router.logs import log
from tunesmith_router.settings import Settings, SettingsError


class Access:
    """The accepted token."""

    def __init__(self, settings: Settings) -> None:
        """Read the token. Raises SettingsError when there is none."""
        if (settings.token is None) == (settings.token_file is None):
            raise SettingsError("give token or token_file, and just one of them")
        self._file = settings.token_file
        self._token = (settings.token.get_secret_value() if settings.token else "").strip().encode()
        if self._file is not None:
            try:
                self._token = self._file.read_bytes().strip()
            except OSError as error:
                raise SettingsError(f"token_file: {error}") from error
        if not self._token:
            raise SettingsError("the token is empty")

    def allow(self, authorization: str | None) -> bool:
        """Tell whether a request with this Authorization header may come in."""
        self._read_again()
        scheme, _, token = (authorization or "").partition(" ")
        given = token.strip().encode("utf-8", "surrogateescape")
        return hmac.compare_digest(given, self._token) and scheme.lower() == "bearer"

    def _read_again(self) -> None:
        if self._file is None:
            return
        try:
            # A file that is empty or away for a moment must neither open the door nor close it.
            self._token = self._file.read_bytes().strip() or self._token
        except OSError as error:
            log.warning("kept the token: its file cannot be read", error=str(error))
