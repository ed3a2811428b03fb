"""The container that fetches the model before anything else starts, and its credentials."""

from tunesmith_api.revision import RevisionTemplate
from tunesmith_operator.config import Config
from tunesmith_operator.resources.metadata import Manifest
from tunesmith_operator.resources.scheduling import container_resources
from tunesmith_operator.resources.security import container_basis, variables
from tunesmith_operator.resources.serving.engines.plan import (
    DIGEST_PATH,
    FILES_PATH,
    GGUF_PATH,
    MODELS_PATH,
    EnginePlan,
)
from tunesmith_operator.resources.serving.record import Revision
from tunesmith_operator.resources.serving.storage import resolve_storage
from tunesmith_operator.resources.surroundings import build_scratch

CONTAINER = "fetch"
_PREFIX = "TUNESMITH_FETCH_"
_MODELS = "models"
_MODELS_MOUNT: Manifest = {"name": _MODELS, "mountPath": MODELS_PATH}


def models_mount(*, is_writable: bool = False) -> Manifest:
    """Where the model is seen; most only read it."""
    return _MODELS_MOUNT if is_writable else _MODELS_MOUNT | {"readOnly": True}


def build_volumes(template: RevisionTemplate, config: Config) -> list[Manifest]:
    """Give the pod's volumes that fetching needs, whoever does it."""
    models = build_scratch(_MODELS, config.serving.models_volume)
    return [models, *resolve_storage(template, config).volumes]


def build_fetcher(revision: Revision, plan: EnginePlan, config: Config) -> Manifest:
    """Give the container."""
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
    return container_basis(CONTAINER, config.serving.image, config.serving) | {
        "command": ["python", "-m", "tunesmith_sidecar.fetch"],
        "env": variables({_PREFIX + name: value for name, value in settings.items()}),
        "resources": container_resources(config.serving.fetch_resources, 0, config),
        "volumeMounts": [_MODELS_MOUNT, *storage.mounts],
    }
