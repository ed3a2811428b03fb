"""Whether a request comes from the operator: compares its token's digest, in constant time.

Called by ``app``.
"""

import hmac
from hashlib import sha256

from tunesmith_process.settings import SettingsError
from tunesmith_router.settings import Settings


class Access:
    """The accepted token, by its digest."""

    def __init__(self, settings: Settings) -> None:
        """Remember it. Raises SettingsError when there is none."""
        if settings.token_digest is None:
            raise SettingsError("give token_digest")
        self._digest = settings.token_digest

    def allow(self, authorization: str | None) -> bool:
        """Tell whether a request with this Authorization header may come in."""
        scheme, _, token = (authorization or "").partition(" ")
        given = sha256(token.strip().encode("utf-8", "surrogateescape")).hexdigest()
        return hmac.compare_digest(f"sha256:{given}", self._digest) and scheme.lower() == "bearer"
