"""What stands before the engine: who may ask it, and what is written down of it.

Sections of a ModelDeployment's spec. The pods mount what is named here, so both are part of a
revision: a change of them is rolled out like a new model, and a rollback takes it back.
"""

from typing import Annotated

from pydantic import Field

from tunesmith_api.engine import SecretKeyRef
from tunesmith_api.meta import S3Uri, Spec


class Access(Spec):
    """Who may ask."""

    api_key_secret_ref: SecretKeyRef
    """Keys that clients may send as Authorization: Bearer KEY, one a line; all others get 401.
    Pods read them again when the Secret changes, within two minutes and without a roll-out. Another
    Secret is a new revision: until that is promoted stable asks for the old keys and the canary for
    the new ones, so let both Secrets hold both."""


HeaderName = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9-]+$")]


class ConversationLog(Spec):
    """Where conversations are written down, to train on."""

    uri: S3Uri
    """s3://BUCKET/PREFIX/; a FineTuneJob takes it as its dataset. Conversations are in
    PREFIX/conversations/, what was said of them later, also to other pods, in PREFIX/feedback/.
    Addresses of mail and network, numbers of phones, cards and accounts are masked before they are
    written; names are not. Reached as spec.s3 or the chart say, whose keys must be allowed to write
    there. A bucket that is full or missing, or keys that are, never hurt serving: what cannot be
    written waits in bounded memory and is then dropped and counted."""
    flush_seconds: Annotated[int, Field(ge=1, le=3600)] = 60
    """Seconds after which what was said is written; earlier when it is much. As much is lost of a
    pod that is killed; one that is stopped writes it first."""
    session_header: HeaderName = "x-conversation-id"
    """Header that says which conversation a request belongs to; its value is the line's session.
    Usually the one of routing.stickyHeader. Requests without it have an empty session."""
