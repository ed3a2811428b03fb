"""One pass over a ModelVersion: say whether its digests are vouched for, and who uses it.

A version made by a job names the run's report, whose digests were taken by the trainer that wrote
the artifacts. A version made by hand has only its author's word. The cache asks for a pass when a
ModelDeployment begins or ends to use it.
"""

from datetime import timedelta

from pydantic import ValidationError

from tunesmith_api.modelversion import ModelVersion
from tunesmith_operator.planning.versions import describe
from tunesmith_operator.reconcile.unreadable import mark_unreadable
from tunesmith_operator.reconcile.world import World


async def reconcile_modelversion(world: World, namespace: str, name: str) -> timedelta | None:
    """Do one pass; nothing changes by itself, so it never asks for another one."""
    body = await world.kube.get(ModelVersion.KIND, namespace, name)
    if body is None:
        return None
    try:
        version = ModelVersion.model_validate(body)
    except ValidationError as error:
        await mark_unreadable(world, ModelVersion.KIND, body, error)
        return None
    status = describe(version, world.cache.uses.users(namespace, name), world.now())
    if status != version.status:
        await world.kube.apply_status(
            ModelVersion.KIND,
            namespace,
            name,
            status.model_dump(mode="json", by_alias=True, exclude_none=True),
            resource_version=version.metadata.resource_version,
        )
    return None
