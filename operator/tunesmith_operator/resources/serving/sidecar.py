"""The sidecar's container and its times: what stands before every engine.

Settings as in tunesmith_sidecar/settings.py; a test holds the two together.
"""

from dataclasses import dataclass
from hashlib import sha256

from tunesmith_api.adapters import adapter_port
from tunesmith_api.engine import EngineType
from tunesmith_api.modeldeployment import Delivery, ModelDeployment
from tunesmith_api.revision import RevisionTemplate
from tunesmith_operator.config import Config
from tunesmith_operator.resources.metadata import Manifest
from tunesmith_operator.resources.scheduling import container_resources
from tunesmith_operator.resources.security import container_basis, variables
from tunesmith_operator.resources.serving.engines.custom import DEFAULT_PORT
from tunesmith_operator.resources.serving.engines.plan import ADAPTERS_PATH, DIGEST_PATH, EnginePlan
from tunesmith_operator.resources.serving.fetching import models_mount
from tunesmith_operator.resources.serving.names import served_model
from tunesmith_operator.resources.serving.record import Revision
from tunesmith_operator.resources.serving.storage import resolve_storage

CONTAINER = "sidecar"
_KEYS_VOLUME, _KEYS_FOLDER, _KEYS_FILE = "api-keys", "/etc/tunesmith/access", "keys"
_PREFIX = "TUNESMITH_SIDECAR_"
SIDECAR_PORT, _OTHER_PORT = 8000, 8001
_END_SECONDS = 15
"""After the drain: the hook's answer, the log, the engine's own end."""


def sidecar_port(template: RevisionTemplate) -> int:
    """Port of the pods where requests go: 8000, unless a Custom engine listens there."""
    engine = template.engine
    is_taken = engine.type is EngineType.CUSTOM and (engine.port or DEFAULT_PORT) == SIDECAR_PORT
    return _OTHER_PORT if is_taken else SIDECAR_PORT


def drain_seconds(template: RevisionTemplate, config: Config) -> int:
    """Longest wait for requests in progress: none is cut that may still be answered in time."""
    return max(config.serving.drain_seconds, template.engine.request_timeout_seconds)


def grace_seconds(template: RevisionTemplate, config: Config) -> int:
    """How long an ending pod may take."""
    serving = config.serving
    return serving.pre_stop_seconds + drain_seconds(template, config) + _END_SECONDS


def requests_port(template: RevisionTemplate, number: int) -> int:
    """Port of the pods where a revision's requests go; an adapter has one of its own."""
    is_adapter = template.delivery is Delivery.ADAPTER
    return adapter_port(number) if is_adapter else sidecar_port(template)


@dataclass(frozen=True, slots=True)
class Tokens:
    """What the operator is known by in the pods of a deployment. Empty: not at all."""

    analysis: str = ""
    """Golden prompts are asked with it."""
    adapters: str = ""
    """Pods are told with it which adapters they serve."""


def build_sidecar(
    deployment: ModelDeployment,
    revision: Revision,
    plan: EnginePlan,
    config: Config,
    tokens: Tokens,
) -> tuple[Manifest, list[Manifest]]:
    """Give the container, and the pod's volumes that it needs besides the fetcher's."""
    template = revision.template
    port = sidecar_port(template)
    is_host = template.delivery is Delivery.ADAPTER
    served = _adapter_settings(template, config) if is_host else _model_settings(plan, template)
    if is_host or plan.holds_others:
        served["SERVED_MODEL"] = served_model(deployment)
    settings = (
        _settings(revision, plan, config)
        | _access_settings(template)
        | _log_settings(template, config)
        | {"PORT": str(port)}
        | served
        | _digest("ANALYSIS_TOKEN_DIGEST", tokens.analysis)
        | _digest("ADAPTERS_TOKEN_DIGEST", tokens.adapters if is_host else "")
    )
    volumes, mounts = _secrets(template, config)
    serving = config.serving
    # It starts the fetcher itself where adapters come while the pod serves.
    resources = serving.fetch_resources if is_host else serving.sidecar_resources
    container = container_basis(CONTAINER, config.serving.image, config.serving) | {
        "command": ["python", "-m", "tunesmith_sidecar"],
        "env": variables({_PREFIX + name: value for name, value in settings.items()}),
        "ports": [{"name": "http", "containerPort": port}],
        **_probes(port),
        "resources": container_resources(resources, 0, config),
        "volumeMounts": [models_mount(is_writable=is_host), *mounts],
    }
    return container, volumes


def _probes(port: int) -> Manifest:
    # What fails is to get no more requests soon; a restart costs the requests in progress.
    return {
        "readinessProbe": {
            "httpGet": {"path": "/readyz", "port": port},
            "periodSeconds": 1,
            "timeoutSeconds": 2,
            "failureThreshold": 2,
        },
        "livenessProbe": {
            "httpGet": {"path": "/livez", "port": port},
            "initialDelaySeconds": 10,
            "periodSeconds": 10,
            "timeoutSeconds": 5,
            "failureThreshold": 3,
        },
    }


def _settings(revision: Revision, plan: EnginePlan, config: Config) -> dict[str, str]:
    template = revision.template
    return {
        "REVISION": revision.name,
        "ENGINE_URL": f"http://127.0.0.1:{plan.port}",
        "ENGINE_READY_PATH": plan.ready_path,
        "ENGINE_LOGPROBS": str(plan.knows_logprobs).lower(),
        "MAX_CONCURRENT_REQUESTS": str(template.engine.max_concurrent_requests),
        "REQUEST_TIMEOUT_SECONDS": str(template.engine.request_timeout_seconds),
        "PRE_STOP_SECONDS": str(config.serving.pre_stop_seconds),
        "DRAIN_TIMEOUT_SECONDS": str(drain_seconds(template, config)),
    }


def _model_settings(plan: EnginePlan, template: RevisionTemplate) -> dict[str, str]:
    return {
        "MODEL_NAME": plan.model,
        "MODEL_DIGEST": template.model.digest,
        "MODEL_DIGEST_FILE": DIGEST_PATH,
    }


def _adapter_settings(template: RevisionTemplate, config: Config) -> dict[str, str]:
    storage = resolve_storage(template, config)
    told = {
        "FOLDER": ADAPTERS_PATH,
        "BASE_MODEL": template.base_model_uri,
        **({"BASE_DIGEST": template.base_listing} if template.base_listing else {}),
        "SECRET": storage.secret,
        **storage.settings,
    }
    return {f"ADAPTERS_{name}": value for name, value in told.items()}


def _digest(name: str, token: str) -> dict[str, str]:
    """Not the token: whoever may read pods could use it."""
    return {name: f"sha256:{sha256(token.encode()).hexdigest()}"} if token else {}


def _access_settings(template: RevisionTemplate) -> dict[str, str]:
    return {"API_KEY_FILE": f"{_KEYS_FOLDER}/{_KEYS_FILE}"} if template.access else {}


def _log_settings(template: RevisionTemplate, config: Config) -> dict[str, str]:
    """Settings of the conversation log; it is in the S3 that the model comes from."""
    log = template.conversation_log
    if log is None:
        return {}
    storage = resolve_storage(template, config).settings
    told = {"URI": log.uri, "FLUSH_SECONDS": str(log.flush_seconds), **storage}
    named = {f"LOG_{name}": value for name, value in told.items()}
    return {"SESSION_HEADER": log.session_header, **named}


def _secrets(template: RevisionTemplate, config: Config) -> tuple[list[Manifest], list[Manifest]]:
    """Volumes that the fetcher does not bring along, and all mounts of Secrets."""
    log, access = template.conversation_log, template.access
    reads_s3 = log is not None or template.delivery is Delivery.ADAPTER
    mounts = resolve_storage(template, config).mounts if reads_s3 else []
    if access is None:
        return [], mounts
    reference = access.api_key_secret_ref
    items = [{"key": reference.key, "path": _KEYS_FILE}]
    # Optional, because a pod that waits for a Secret waits in silence: the sidecar ends and says
    # what is missing. It never serves without keys.
    source = {"secretName": reference.name, "items": items, "optional": True}
    # All of the folder: a file that is mounted alone never changes.
    mount = {"name": _KEYS_VOLUME, "mountPath": _KEYS_FOLDER, "readOnly": True}
    return [{"name": _KEYS_VOLUME, "secret": source}], [*mounts, mount]
