"""The pod of a prepare or train attempt.

It meets the Pod Security Standard "restricted", has no Kubernetes credentials, and finds its
TrainingRun in a file that the downward API makes of an annotation: so an attempt is one object,
created in one call, and nothing can be half there.
"""

from typing import Any

from tunesmith_api.attempts import StageName
from tunesmith_api.compute import Compute
from tunesmith_api.finetunejob import FineTuneJob
from tunesmith_api.result import PROGRESS_PORT, TERMINATION_PATH
from tunesmith_api.run import (
    CREDENTIALS_PATH,
    PVC_PATH,
    RUN_PATH,
    WORK_PATH,
    TrainingRun,
    judge_folder,
)
from tunesmith_operator.config import Config
from tunesmith_operator.resources.launch import command, environment
from tunesmith_operator.resources.metadata import Manifest
from tunesmith_operator.resources.scheduling import container_resources, placement
from tunesmith_operator.resources.security import container_security, pod_basis, scratch
from tunesmith_operator.resources.surroundings import build_scratch, surround

RUN_ANNOTATION = "tunesmith.dev/run"
_RUN_FOLDER, _RUN_FILE = RUN_PATH.rsplit("/", 1)


def build_pod_template(
    job: FineTuneJob, name: str, run: TrainingRun, labels: dict[str, str], config: Config
) -> Manifest:
    """Give the pod template of the attempt whose Job is called ``name``."""
    template = {
        "metadata": {"labels": labels, "annotations": {RUN_ANNOTATION: run.encode()}},
        "spec": _pod_spec(job, name, run, config),
    }
    return surround(template, config.trainer_pods, config)


def _pod_spec(job: FineTuneJob, name: str, run: TrainingRun, config: Config) -> Manifest:
    compute, policy = job.spec.compute, job.spec.run_policy
    is_train = run.stage is StageName.TRAIN
    volumes, mounts = _storage(run, compute if is_train else None, config)
    spec: Manifest = {
        **pod_basis(config.image_pull_secrets),
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": job.spec.checkpoint.grace_period_seconds,
        "containers": [_trainer(job, name, run, config) | {"volumeMounts": mounts}],
        "volumes": volumes,
    }
    optional: dict[str, Any] = {
        "serviceAccountName": compute.service_account_name,
        "priorityClassName": policy.priority_class_name,
        "subdomain": service_name(job) if run.world.nodes > 1 else "",
        **(_placement(compute, config) if is_train else {}),
    }
    return spec | {key: value for key, value in optional.items() if value}


def _trainer(job: FineTuneJob, name: str, run: TrainingRun, config: Config) -> Manifest:
    resources = (
        container_resources(job.spec.compute.resources, run.world.gpus_per_node, config)
        if run.stage is StageName.TRAIN
        else container_resources(config.prepare_resources, 0, config)
    )
    return {
        "name": "trainer",
        "image": run.trainer_image,
        "imagePullPolicy": config.image_pull_policy,
        "command": command(run, service_name(job), name),
        "env": environment(job.spec.checkpoint.grace_period_seconds),
        "ports": [{"name": "progress", "containerPort": PROGRESS_PORT}],
        "resources": resources,
        "securityContext": container_security(),
        "terminationMessagePath": TERMINATION_PATH,
    }


def _placement(compute: Compute, config: Config) -> dict[str, Any]:
    return placement(
        compute.gpus_per_node, compute.gpu_type, compute.node_selector, compute.tolerations, config
    )


def service_name(job: FineTuneJob) -> str:
    """Name of the headless Service of a job with several nodes; the same for all attempts."""
    return f"{job.metadata.name}-train"


def _storage(
    run: TrainingRun, compute: Compute | None, config: Config
) -> tuple[list[Manifest], list[Manifest]]:
    """Volumes and mounts: the run, a place to work, credentials, claims, shared memory."""
    work = build_scratch("work", config.work_volume)
    pairs = [
        _run_file(),
        (work, {"name": "work", "mountPath": WORK_PATH}),
        scratch("tmp", "/tmp"),  # noqa: S108
    ]
    secrets = {
        "model": run.s3.model_secret,
        "dataset": run.s3.dataset_secret,
        "output": run.s3.output_secret,
        "hub": _hub_secret(run),
        # Also for prepare, which says that one is missing before a GPU is taken.
        **_judges(run),
        **_tracking_secrets(run),
        "generator": _generator_secret(run),
    }
    pairs += [_secret(role, name) for role, name in secrets.items() if name]
    pairs += [_claim(number, name) for number, name in enumerate(_claims(run))]
    if compute is not None:
        volume = {"medium": "Memory", "sizeLimit": compute.shared_memory}
        pairs.append(
            ({"name": "shm", "emptyDir": volume}, {"name": "shm", "mountPath": "/dev/shm"})  # noqa: S108
        )
    return [v for v, _ in pairs], [m for _, m in pairs]


def _hub_secret(run: TrainingRun) -> str:
    """Name of the Secret with the Hub's token to push with; empty where nothing is pushed."""
    target = run.output.hugging_face
    if target is None:
        return ""
    return target.secret_ref.name if target.secret_ref else run.s3.model_secret


def _judges(run: TrainingRun) -> dict[str, str]:
    """Secrets of endpoints that judge, by the folder that the trainer looks into."""
    return {
        judge_folder(place): suite.judge.secret_ref.name
        for place, suite in enumerate(run.evaluation.suites)
        if suite.judge and suite.judge.secret_ref
    }


def _tracking_secrets(run: TrainingRun) -> dict[str, str]:
    """Names of the Secrets of the services that the curve is sent to."""
    tracking = run.output.tracking
    if tracking is None:
        return {}
    services = {"mlflow": tracking.mlflow, "wandb": tracking.wandb}
    return {
        role: service.secret_ref.name
        for role, service in services.items()
        if service and service.secret_ref
    }


def _generator_secret(run: TrainingRun) -> str:
    """Name of the Secret with the key for the generator of synthetic rows, which prepare asks."""
    synthetic = run.dataset.synthetic
    if synthetic is None or run.stage is not StageName.PREPARE:
        return ""
    return synthetic.generator.secret_ref.name if synthetic.generator.secret_ref else ""


def _run_file() -> tuple[Manifest, Manifest]:
    source = {"fieldPath": f"metadata.annotations['{RUN_ANNOTATION}']"}
    items = [{"path": _RUN_FILE, "fieldRef": source}]
    mount = {"name": "run", "mountPath": _RUN_FOLDER, "readOnly": True}
    return {"name": "run", "downwardAPI": {"items": items}}, mount


def _secret(role: str, secret: str) -> tuple[Manifest, Manifest]:
    # Optional, because a pod that waits for a Secret waits in silence for ever; the trainer says
    # at once which Secret or key is missing, and the operator needs no right to read Secrets.
    name = f"credentials-{role}"
    volume = {"name": name, "secret": {"secretName": secret, "optional": True}}
    mount = {"name": name, "mountPath": f"{CREDENTIALS_PATH}/{role}", "readOnly": True}
    return volume, mount


def _claim(number: int, claim: str) -> tuple[Manifest, Manifest]:
    # Not called after the claim, whose name may be longer than a volume's and have dots.
    name = f"claim-{number}"
    source = {"claimName": claim, "readOnly": True}
    mount = {"name": name, "mountPath": f"{PVC_PATH}/{claim}", "readOnly": True}
    return {"name": name, "persistentVolumeClaim": source}, mount


def _claims(run: TrainingRun) -> list[str]:
    """Claims that the run reads from, each once, in a fixed order."""
    data = run.dataset
    sources = [source.uri for source in data.train.all_sources]
    generator = data.synthetic.generator.uri if data.synthetic else None
    uris = [
        run.model.uri,
        generator or "",
        *sources,
        data.validation.uri or "",
        data.test.uri or "",
    ]
    claims = {uri.removeprefix("pvc://").split("/")[0] for uri in uris if uri.startswith("pvc://")}
    return sorted(claims)
