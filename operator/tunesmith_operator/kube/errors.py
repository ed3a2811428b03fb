"""What can go wrong in a call to Kubernetes, in the words that callers decide on.

Raised by kube/, caught by reconcile/ and the queue. Everything that is not one of these is a bug.
"""


class KubeError(Exception):
    """A call failed. ``code`` is the HTTP status, 0 when there was no answer."""

    def __init__(self, message: str, code: int = 0) -> None:
        super().__init__(message)
        self.code = code


class Unavailable(KubeError):
    """The API server did not answer, or asked to come back later, also after retries.

    The call may have been carried out: that is why every act can be done twice.
    """


class Conflict(KubeError):
    """The object is not the one that was looked at: other uid or resourceVersion."""


class AlreadyExists(KubeError):
    """An object of that name exists."""


class NotOurs(KubeError):
    """An object of that name exists and belongs to somebody else: it must not be adopted."""


class Refused(KubeError):
    """The object is invalid, or the operator may not do this: a repeat ends the same way."""


class WebhookRefused(Refused):
    """An admission webhook says no, or does not answer: the API server takes nothing without it."""


class Invalid(Refused):
    """The object breaks a rule of its kind: it must be another one to be taken.

    What a policy or a quota refuses is not of this class, since that may change.
    """


class Gone(KubeError):
    """The object that should be written to does not exist."""


class LostLeadershipError(Exception):
    """Another operator may be the leader: nothing was sent."""
