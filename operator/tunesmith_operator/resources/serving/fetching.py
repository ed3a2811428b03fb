"""The container that fetches the model before anything else starts, and its credentials."""

from tunesmith_operator.config import Config
from tunesmith_operator.resources.metadata import Manifest
from tunesmith_operator.resources.scheduling import container_resources
from tunesmith_operator.resources.serving.engines.plan import (
    DIGEST_PATH,
    FILES_PATH,
    GGUF_PATH,
    MODELS_PATH,
    EnginePlan,
)
from tunesmith_operator.resources.serving.record import Revision
from tunesmith_operator.resources.serving.security import container_basis, scratch, variables
from tunesmith_operator.resources.serving.storage import resolve_storage

CONTAINER = "fetch"
_PREFIX = "TUNESMITH_FETCH_"
_MODELS, _MODELS_MOUNT = scratch("models", MODELS_PATH)


def models_mount() -> Manifest:
    """Where those that only read it see the model."""
    return _MODELS_MOUNT | {"readOnly": True}


def build_fetcher(
    revision: Revision, plan: EnginePlan, config: Config
) -> tuple[Manifest, list[Manifest]]:
    """Give the container and the pod's volumes that it needs."""
    storage = resolve_storage(revision.template, config)
    settings = {
        "URI": revision.template.model.uri,
        "DIGEST": revision.template.model.digest,
        "FOLDER": FILES_PATH,
        "DIGEST_FILE": DIGEST_PATH,
        "REVISION": revision.name,
        **storage.settings,
    }
    if plan.needs_gguf:
        settings["GGUF_LINK"] = GGUF_PATH
    if storage.secret:
        settings["SECRET"] = storage.secret
    container = container_basis(CONTAINER, config.serving.image, config.serving) | {
        "command": ["python", "-m", "tunesmith_sidecar.fetch"],
        "env": variables({_PREFIX + name: value for name, value in settings.items()}),
        "resources": container_resources(config.serving.fetch_resources, 0, config),
        "volumeMounts": [_MODELS_MOUNT, *storage.mounts],
    }
    return container, [_MODELS, *storage.volumes]
