"""The TrainingRun of an attempt: the job's inputs with the chart's defaults filled in. Pure."""

from tunesmith_api.attempts import StageName
from tunesmith_api.finetunejob import FineTuneJob
from tunesmith_api.meta import SecretRef
from tunesmith_api.run import (
    BaselineModel,
    JobRef,
    PlannedGpus,
    S3Connection,
    TrainingRun,
    World,
    sections_of,
)
from tunesmith_api.sharding import Sharding
from tunesmith_api.training import S3Options
from tunesmith_operator.config import Config
from tunesmith_operator.planning.names import run_uri

_GIB = 1024**3


def build_run(
    job: FineTuneJob,
    stage: StageName,
    attempt: int,
    config: Config,
    baselines: tuple[BaselineModel, ...] = (),
) -> TrainingRun:
    """Give the run of an attempt; `baselines` are the earlier versions it measures."""
    meta = job.metadata
    given = job.spec.hyperparameters
    settings = given.halved() if job.status.counters.batch_halvings else given
    return TrainingRun(
        job=JobRef(namespace=meta.namespace, name=meta.name, uid=meta.uid),
        stage=stage,
        attempt=attempt,
        run_uri=run_uri(job),
        trainer_image=trainer_image(job, config),
        s3=_connection(job, config),
        world=_world(job, stage),
        planned_gpus=_planned_gpus(job, stage, config),
        baselines=baselines,
        **sections_of(job.spec) | {"hyperparameters": settings},
    )


def trainer_image(job: FineTuneJob, config: Config) -> str:
    """Image of the job's pods."""
    return job.spec.compute.image or config.trainer_image


def _world(job: FineTuneJob, stage: StageName) -> World:
    if stage is StageName.PREPARE:
        return World()
    compute, chosen = job.spec.compute, job.status.resolved.sharding
    if chosen is None:
        # On CPUs nothing is estimated, and an earlier operator asked for no choice.
        is_wanted = compute.sharding is Sharding.FSDP
        chosen = Sharding.FSDP if is_wanted else Sharding.DDP
    return World(nodes=compute.nodes, gpus_per_node=compute.gpus_per_node, sharding=chosen)


def _planned_gpus(job: FineTuneJob, stage: StageName, config: Config) -> PlannedGpus | None:
    compute = job.spec.compute
    if stage is not StageName.PREPARE or compute.gpus_per_node == 0:
        return None
    memory = config.gpu.memory_gib.get(compute.gpu_type, 0)
    return PlannedGpus(
        type=compute.gpu_type or "GPU",
        memory_bytes=memory * _GIB,
        ranks=compute.nodes * compute.gpus_per_node,
        sharding=compute.sharding,
    )


def _connection(job: FineTuneJob, config: Config) -> S3Connection:
    spec, chart = job.spec, config.s3
    s3 = spec.s3 or S3Options()

    def secret(own: SecretRef | None) -> str:
        return (own or s3.secret_ref or SecretRef.model_construct(name=chart.secret_name)).name

    return S3Connection(
        endpoint=s3.endpoint or chart.endpoint,
        region=s3.region or chart.region,
        path_style=chart.path_style if s3.path_style is None else s3.path_style,
        model_secret=secret(spec.model.secret_ref),
        dataset_secret=secret(spec.dataset.secret_ref),
        output_secret=secret(spec.output.secret_ref),
    )
