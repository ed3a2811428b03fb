"""S3 as the trainer sees it. The only part of the trainer that imports boto3.

:class:`Storage` moves bytes; ``manifest`` makes directories appear complete or not at all;
``fence`` keeps a late old attempt from writing over a newer one.
"""

from tunesmith_trainer.storage.client import ObjectInfo, Storage, StoredObject
from tunesmith_trainer.storage.errors import Conflict, NotFound, Role

__all__ = ["Conflict", "NotFound", "ObjectInfo", "Role", "Storage", "StoredObject"]
