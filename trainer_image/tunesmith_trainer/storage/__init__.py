"""Where the trainer's files come from and go to. The only part of it that imports boto3.

:class:`Storage` moves bytes from and to S3, ``local`` does the same with a folder; ``manifest``
makes directories appear complete or not at all; ``fence`` keeps a late old attempt from writing
over a newer one.
"""

from tunesmith_api.run import S3Connection
from tunesmith_trainer.stopping import StopSignal
from tunesmith_trainer.storage.client import Storage
from tunesmith_trainer.storage.errors import Conflict, NotFound, Role
from tunesmith_trainer.storage.local import LocalStorage
from tunesmith_trainer.storage.locations import FILE_SCHEME
from tunesmith_trainer.storage.store import ObjectInfo, Store, StoredObject

__all__ = [
    "Conflict",
    "NotFound",
    "ObjectInfo",
    "Role",
    "Storage",
    "Store",
    "StoredObject",
    "open_store",
]


def open_store(
    uri: str, connection: S3Connection, role: Role, stop: StopSignal | None = None
) -> Store:
    """Open the place that ``uri`` is in. Raises as :meth:`Storage.open` does."""
    if uri.startswith(FILE_SCHEME):
        return LocalStorage()
    return Storage.open(connection, role, stop=stop)
