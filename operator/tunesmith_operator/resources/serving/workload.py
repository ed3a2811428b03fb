"""A revision's Deployment and Service: fetcher, engine and sidecar in each pod.

Everything comes from the revision's template and the configuration, and the tokens from the
deployment's uid; nothing from the rest of the spec: the pods of a revision never change, they
only become more or fewer. Both are owned by the revision's record. Adapters share the pods of a
host, which has no adapter of its own and belongs to the ModelDeployment.
"""

from tunesmith_api.engine import Engine, EnvVar
from tunesmith_api.modeldeployment import Delivery, ModelDeployment
from tunesmith_api.revision import RevisionTemplate
from tunesmith_operator.config import Config
from tunesmith_operator.resources.metadata import Manifest, owned_metadata
from tunesmith_operator.resources.scheduling import container_resources, placement
from tunesmith_operator.resources.security import (
    container_basis,
    pod_basis,
    scratch,
    variables,
)
from tunesmith_operator.resources.serving.engines import plan_engine
from tunesmith_operator.resources.serving.engines.plan import EnginePlan, UnservableError
from tunesmith_operator.resources.serving.fetching import (
    build_fetcher,
    build_volumes,
    models_mount,
)
from tunesmith_operator.resources.serving.names import (
    host_labels,
    host_selector,
    revision_labels,
    revision_selector,
    served_model,
)
from tunesmith_operator.resources.serving.record import Revision, owned_by_record
from tunesmith_operator.resources.serving.sidecar import (
    Tokens,
    build_sidecar,
    grace_seconds,
    requests_port,
    sidecar_port,
)
from tunesmith_operator.resources.serving.storage import resolve_storage
from tunesmith_operator.resources.surroundings import surround

ENGINE_CONTAINER = "engine"
SERVICE_PORT = 80
_START_SECONDS = 3600
"""How long a model may take to load. What is too long for a roll-out, its readyTimeoutSeconds says
much earlier."""
_PROBE_SECONDS = 2


def build_workload(
    deployment: ModelDeployment,
    revision: Revision,
    replicas: int,
    record_uid: str,
    config: Config,
    *,
    tokens: Tokens,
) -> Manifest:
    """Give the Deployment of a revision's own pods.

    Raises UnservableError (engines.plan) with a sentence for the condition.
    """
    selector = revision_selector(deployment, revision.number)
    labels = revision_labels(deployment, revision.number)
    pod = _pod(deployment, revision, selector, config, tokens)
    metadata = owned_by_record(deployment, revision, record_uid)
    return _workload(metadata, selector, replicas, _template(labels, pod, config))


def build_host(
    deployment: ModelDeployment,
    name: str,
    template: RevisionTemplate,
    replicas: int,
    config: Config,
    *,
    tokens: Tokens,
) -> Manifest:
    """Give the Deployment of the pods that adapters share; of ``template`` the adapter is not used.

    Raises UnservableError (engines.plan) with a sentence for the condition.
    """
    selector, labels = host_selector(deployment, name), host_labels(deployment, name)
    pod = _pod(deployment, Revision(name, 0, "", template), selector, config, tokens)
    metadata = owned_metadata(deployment, name, labels)
    return _workload(metadata, selector, replicas, _template(labels, pod, config))


def _template(labels: dict[str, str], pod: Manifest, config: Config) -> Manifest:
    notes = {"kubectl.kubernetes.io/default-container": ENGINE_CONTAINER}
    template = {"metadata": {"labels": labels, "annotations": notes}, "spec": pod}
    return surround(template, config.serving.pods, config)


def _workload(
    metadata: Manifest, selector: dict[str, str], replicas: int, template: Manifest
) -> Manifest:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata,
        "spec": {
            "replicas": replicas,
            "revisionHistoryLimit": 0,
            "progressDeadlineSeconds": _START_SECONDS,
            "strategy": {
                "type": "RollingUpdate",
                "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1},
            },
            "selector": {"matchLabels": selector},
            "template": template,
        },
    }


def build_service(
    deployment: ModelDeployment, revision: Revision, record_uid: str, host: str = ""
) -> Manifest:
    """Give the Service of a revision's ready pods, its own or those of its host."""
    selector = (
        host_selector(deployment, host) if host else revision_selector(deployment, revision.number)
    )
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": owned_by_record(deployment, revision, record_uid),
        "spec": {
            "type": "ClusterIP",
            "selector": selector,
            "ports": [
                {
                    "name": "http",
                    "port": SERVICE_PORT,
                    "targetPort": requests_port(revision.template, revision.number),
                    "appProtocol": "http",
                }
            ],
        },
    }


def _pod(
    deployment: ModelDeployment,
    revision: Revision,
    selector: dict[str, str],
    config: Config,
    tokens: Tokens,
) -> Manifest:
    template = revision.template
    engine = template.engine
    _check_place(engine, config)
    plan = plan_engine(template, served_model(deployment), config.serving)
    sidecar, more = build_sidecar(deployment, revision, plan, config, tokens)
    pairs = _engine_storage(plan, config)
    spread = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": selector},
    }
    account = engine.service_account_name
    return {
        **pod_basis(config.serving.image_pull_secrets),
        **({"serviceAccountName": account} if account else {}),
        **placement(engine.gpus, engine.gpu_type, engine.node_selector, engine.tolerations, config),
        "terminationGracePeriodSeconds": grace_seconds(template, config),
        "topologySpreadConstraints": [spread],
        # Adapters come while the pod serves: its sidecar fetches them.
        "initContainers": (
            [] if template.delivery is Delivery.ADAPTER else [build_fetcher(revision, plan, config)]
        ),
        "containers": [
            _engine(revision, plan, [mount for _, mount in pairs], config),
            sidecar,
        ],
        "volumes": [
            *build_volumes(template, config),
            *more,
            *(volume for volume, _ in pairs),
        ],
    }


def _check_place(engine: Engine, config: Config) -> None:
    """Raise UnservableError where the cluster's owner knows no such place, or does not allow it."""
    why = config.why_no_gpu_type("engine.gpuType", engine.gpu_type) or config.why_no_account(
        "engine.serviceAccountName", engine.service_account_name
    )
    if why:
        raise UnservableError(why)


def _engine_storage(plan: EnginePlan, config: Config) -> list[tuple[Manifest, Manifest]]:
    pairs = [scratch("tmp", "/tmp")]  # noqa: S108  mounted there
    if plan.home:
        pairs.append(scratch("home", plan.home))
    if plan.needs_shared_memory:
        volume = {"medium": "Memory", "sizeLimit": config.serving.shared_memory}
        mount = {"name": "shm", "mountPath": "/dev/shm"}  # noqa: S108
        pairs.append(({"name": "shm", "emptyDir": volume}, mount))
    return pairs


def _engine(
    revision: Revision, plan: EnginePlan, mounts: list[Manifest], config: Config
) -> Manifest:
    engine = revision.template.engine
    port = sidecar_port(revision.template)
    # Asked through the sidecar: the engine listens on the loopback address.
    probe = {
        "httpGet": {"path": "/enginez", "port": port},
        "periodSeconds": _PROBE_SECONDS,
        "timeoutSeconds": 5,
    }
    container = container_basis(ENGINE_CONTAINER, plan.image, config.serving) | {
        "env": _environment(plan, revision.template, config),
        "startupProbe": probe | {"failureThreshold": _START_SECONDS // _PROBE_SECONDS},
        # A restart costs minutes of loading: only for an engine that has been gone for a while.
        "livenessProbe": probe | {"periodSeconds": 10, "failureThreshold": 6},
        # Answered when nothing is in progress any more; only then does the engine get its SIGTERM.
        "lifecycle": {"preStop": {"httpGet": {"path": "/drained", "port": port}}},
        "resources": container_resources(engine.resources, engine.gpus, config),
        "volumeMounts": [models_mount(), *mounts],
    }
    parts = {"command": list(plan.command), "args": list(plan.args)}
    return container | {name: words for name, words in parts.items() if words}


def _environment(plan: EnginePlan, template: RevisionTemplate, config: Config) -> list[Manifest]:
    """The user's variables replace ours of the same name: a name may be there once only."""
    ours = variables(plan.env)
    if plan.reads_s3:
        ours += resolve_storage(template, config).environment
    theirs = [_variable(variable) for variable in template.engine.env]
    own = {variable["name"] for variable in theirs}
    return [*(variable for variable in ours if variable["name"] not in own), *theirs]


def _variable(variable: EnvVar) -> Manifest:
    if variable.secret_key_ref is None:
        return {"name": variable.name, "value": variable.value or ""}
    reference = variable.secret_key_ref.model_dump()
    return {"name": variable.name, "valueFrom": {"secretKeyRef": reference}}
