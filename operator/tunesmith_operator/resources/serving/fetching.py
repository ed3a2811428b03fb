"""The container that fetches the model before anything else starts, and its credentials."""

from tunesmith_api.revision import RevisionTemplate
from tunesmith_api.run import CREDENTIALS_PATH
from tunesmith_api.training import S3Options
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

CONTAINER = "fetch"
_PREFIX = "TUNESMITH_FETCH_"
_CREDENTIALS = f"{CREDENTIALS_PATH}/model"
_MODELS, _MODELS_MOUNT = scratch("models", MODELS_PATH)


def models_mount() -> Manifest:
    """Where those that only read it see the model."""
    return _MODELS_MOUNT | {"readOnly": True}


def build_fetcher(
    revision: Revision, plan: EnginePlan, config: Config
) -> tuple[Manifest, list[Manifest]]:
    """Give the container and the pod's volumes that it needs."""
    s3 = revision.template.s3 or S3Options()
    secret = s3.secret_ref.name if s3.secret_ref else config.s3.secret_name
    settings = _settings(revision.template, s3, config) | {"REVISION": revision.name}
    if plan.needs_gguf:
        settings["GGUF_LINK"] = GGUF_PATH
    volumes, mounts = [_MODELS], [_MODELS_MOUNT]
    if secret:
        settings |= {"CREDENTIALS_DIR": _CREDENTIALS, "SECRET": secret}
        # Optional, because a pod that waits for a Secret waits in silence for ever; the fetcher
        # says what is missing, and the operator needs no right to read Secrets.
        source = {"secretName": secret, "optional": True}
        volumes = [*volumes, {"name": "credentials", "secret": source}]
        mount = {"name": "credentials", "mountPath": _CREDENTIALS, "readOnly": True}
        mounts = [*mounts, mount]
    container = container_basis(CONTAINER, config.serving.image, config.serving) | {
        "command": ["python", "-m", "tunesmith_sidecar.fetch"],
        "env": variables({_PREFIX + name: value for name, value in settings.items()}),
        "resources": container_resources(config.serving.fetch_resources, 0, config),
        "volumeMounts": mounts,
    }
    return container, volumes


def _settings(template: RevisionTemplate, s3: S3Options, config: Config) -> dict[str, str]:
    chart = config.s3
    path_style = chart.path_style if s3.path_style is None else s3.path_style
    return {
        "URI": template.model.uri,
        "DIGEST": template.model.digest,
        "FOLDER": FILES_PATH,
        "DIGEST_FILE": DIGEST_PATH,
        "ENDPOINT": s3.endpoint or chart.endpoint,
        "REGION": s3.region or chart.region,
        "PATH_STYLE": str(path_style).lower(),
    }
