"""What a canary is measured with: pods and golden prompts, handed to the sampler.

Called by ``modeldeployment``, beside its passes; answers are counted within them, where the router
counts none.
"""

from collections.abc import Mapping
from dataclasses import replace

from tunesmith_api.analysis import AnalysisMetric
from tunesmith_api.deploymentstatus import ModelDeploymentStatus, RevisionStatus, RolloutStatus
from tunesmith_api.engine import RouterType
from tunesmith_api.modeldeployment import ModelDeployment
from tunesmith_operator.kube.errors import KubeError
from tunesmith_operator.metrics.sampling import Measured, PromptsError
from tunesmith_operator.metrics.scraping import MeasuredPod
from tunesmith_operator.planning.early import unlooked, urgent
from tunesmith_operator.planning.serving import RevisionCounts, Sampling
from tunesmith_operator.planning.traffic import compared
from tunesmith_operator.reconcile.serving_reading import Reading
from tunesmith_operator.reconcile.world import World
from tunesmith_operator.resources.serving.names import served_model


async def remember(
    world: World, deployment: ModelDeployment, reading: Reading, status: ModelDeploymentStatus
) -> None:
    """Begin to count, from the time at which the canary gets traffic."""
    canary = _measured(world, deployment, reading, status.canary)
    if canary is not None:
        stable = _compared(world, deployment, reading, status)
        await world.serving.sampler.remember(canary, stable)


async def take_samples(
    world: World, deployment: ModelDeployment, reading: Reading, status: ModelDeploymentStatus
) -> Sampling:
    """Measure the canary, and stable beside it."""
    canary = _measured(world, deployment, reading, status.canary)
    if canary is None:
        return Sampling("", world.now(), ())
    return await world.serving.sampler.take(
        deployment.spec.rollout.analysis,
        canary,
        _compared(world, deployment, reading, status),
        await _prompts(world, deployment),
        world.now(),
        excuses_ends=status.rollout is not None and status.rollout.stable_crash_loops,
    )


async def look_early(
    world: World,
    deployment: ModelDeployment,
    reading: Reading,
    status: ModelDeploymentStatus,
    rollout: RolloutStatus,
) -> Sampling:
    """Measure what is urgent, by what the pods have counted."""
    analysis, now = deployment.spec.rollout.analysis, world.now()
    canary = _measured(world, deployment, reading, status.canary)
    if canary is None:
        return unlooked("", now)
    stable = _compared(world, deployment, reading, status)
    found = await world.serving.sampler.take(
        analysis,
        canary,
        stable,
        {},
        now,
        only=urgent(rollout, analysis),
        excuses_ends=rollout.stable_crash_loops,
    )
    return replace(found, is_early=True)


async def begin_counting(
    world: World, deployment: ModelDeployment, reading: Reading, status: ModelDeploymentStatus
) -> None:
    """Count answers from now on, where the router does not; called when a roll-out begins."""
    canary = _measured(world, deployment, reading, status.canary)
    if canary is not None and _counts_by_pods(deployment):
        await world.serving.answers.begin(canary)


async def count_answers(
    world: World, deployment: ModelDeployment, reading: Reading
) -> tuple[RevisionCounts, ...]:
    """Count what whoever may be rejected has answered; nothing where the router does that."""
    status = deployment.status
    if not _counts_by_pods(deployment):
        return ()
    # While the former stable is kept, the new one may still be gone back on.
    roles = (status.canary, status.stable if status.previous else None)
    found = [_measured(world, deployment, reading, role) for role in roles]
    return tuple([await world.serving.answers.count(one) for one in found if one is not None])


def _counts_by_pods(deployment: ModelDeployment) -> bool:
    return deployment.spec.routing.router is RouterType.GATEWAY_API


def _compared(
    world: World, deployment: ModelDeployment, reading: Reading, status: ModelDeploymentStatus
) -> Measured | None:
    traffic = reading.router.traffic if reading.router else None
    return _measured(world, deployment, reading, compared(status, traffic))


def _measured(
    world: World, deployment: ModelDeployment, reading: Reading, role: RevisionStatus | None
) -> Measured | None:
    if role is None:
        return None
    pods = [pod for pod in reading.pods.get(role.name, ()) if pod.is_ready and pod.address]
    seen = reading.revision(role.name)
    return Measured(
        namespace=deployment.metadata.namespace,
        name=role.name,
        digest=role.digest,
        pods=tuple(MeasuredPod(pod.uid, pod.address, reading.ports[role.name]) for pod in pods),
        restarts=seen.restarts if seen else 0,
        model=served_model(deployment),
        token=world.serving.analysis_token(deployment.metadata.uid),
    )


async def _prompts(world: World, deployment: ModelDeployment) -> Mapping[str, str | PromptsError]:
    metrics = deployment.spec.rollout.analysis.metrics
    return {m.name: await _read_prompts(world, deployment, m) for m in metrics if m.golden_prompts}


async def _read_prompts(
    world: World, deployment: ModelDeployment, metric: AnalysisMetric
) -> str | PromptsError:
    assert metric.golden_prompts is not None  # noqa: S101 - the only caller filters
    wanted = metric.golden_prompts.config_map_ref
    try:
        body = await world.kube.get("ConfigMap", deployment.metadata.namespace, wanted.name)
    except KubeError as error:
        return PromptsError(f"ConfigMap {wanted.name} cannot be read: {error}", is_passing=True)
    if body is None:
        return PromptsError(f"there is no ConfigMap {wanted.name}")
    text = (body.get("data") or {}).get(wanted.key)
    if text is None:
        return PromptsError(f"ConfigMap {wanted.name} has no key {wanted.key}")
    return str(text)
