"""A job as this machine can run it: where its files lie, how many processes, which TrainingRun.

What the operator does with a job's spec (``planning/runs.py`` there), for one machine. Reads the
environment for S3 and the dates of local data; starts nothing. Called by ``running``.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel

from tunesmith_api.attempts import StageName
from tunesmith_api.compute import Compute
from tunesmith_api.finetunejob import FineTuneJob
from tunesmith_api.run import JobRef, PlannedGpus, S3Connection, TrainingRun, World, sections_of
from tunesmith_api.sharding import Placement, Sharding
from tunesmith_api.training import Hyperparameters, S3Options
from tunesmith_cli.devices import Devices
from tunesmith_cli.mistakes import Refused

_FILE = "file://"
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
_UNDECISIVE = {
    "evaluation": {"gates", "allow_ungated", "baselines"},
    "output": {"uri", "model_version", "secret_ref"},
}
"""Fields of a job's sections that change nothing about what is trained and measured."""
_REGIONS = ("AWS_REGION", "AWS_DEFAULT_REGION")


class Plan(NamedTuple):
    """How a job runs here."""

    job: FineTuneJob
    """With hyperparameters that keep the rows of a step, whatever the number of processes."""
    world: World
    devices: Devices
    notes: tuple[str, ...]
    """Sentences on what is other than the file says."""

    def placed(self, placement: Placement | None) -> "Plan":
        """Give the same plan with the model held as preparation has found best."""
        if placement is None:
            return self
        held = {"sharding": placement.sharding}
        return self._replace(world=self.world.model_copy(update=held))


def plan(job: FineTuneJob, devices: Devices, *, is_cpu_wanted: bool, says_gpus: bool) -> Plan:
    """Fit a job to this machine. ``says_gpus``: the file itself sets compute.gpusPerNode.

    Raises Refused where it asks for more GPUs than there are.
    """
    compute = job.spec.compute
    gpus, notes = compute.gpus_per_node, []
    if is_cpu_wanted:
        gpus = 0
    elif not says_gpus and devices.number == 0:
        gpus = 0
        notes.append("No GPU here: training on the CPU.")
    elif gpus > devices.number:
        raise Refused(
            f"spec.compute.gpusPerNode is {gpus}, but this machine has {devices.number} GPU(s)."
            " Use --cpu, or --set compute.gpusPerNode with the number there is."
        )
    is_parted = gpus > 1 and compute.sharding is Sharding.FSDP
    sharding = Sharding.FSDP if is_parted else Sharding.DDP
    world = World(nodes=1, gpus_per_node=gpus, sharding=sharding)
    settings, note = _same_steps(job.spec.hyperparameters, compute, world)
    spec = job.spec.model_copy(update={"hyperparameters": settings})
    return Plan(job.model_copy(update={"spec": spec}), world, devices, (*notes, *note))


def _same_steps(
    settings: Hyperparameters, compute: Compute, world: World
) -> tuple[Hyperparameters, tuple[str, ...]]:
    """Let fewer processes take more turns before a step, so that the steps stay the same."""
    wanted = compute.nodes * max(1, compute.gpus_per_node)
    if wanted == world.ranks:
        return settings, ()
    turns = -(-settings.gradient_accumulation_steps * wanted // world.ranks)
    note = (
        f"{world.ranks} process(es) here in the place of {wanted}: each takes {turns} batches a"
        " step, so that a step has the same rows."
    )
    return settings.model_copy(update={"gradient_accumulation_steps": turns}), (note,)


def identity(job: FineTuneJob) -> str:
    """Give what stands for the uid of a job: the same file finds the same folder.

    It follows from all that decides the result, local data's size and date included. Gates are
    left out: another limit is judged on what was measured.
    """
    sections = {
        name: section.model_dump(mode="json", exclude=_UNDECISIVE.get(name))
        if isinstance(section, BaseModel)
        else section
        for name, section in sections_of(job.spec).items()
        if name != "checkpoint"
    }
    inputs = [sections, [_stamps(path) for path in _local_inputs(sections)]]
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:8]


def _local_inputs(value: Any) -> Iterator[Path]:
    """Give the files and folders that any ``uri`` below names."""
    if isinstance(value, dict) and str(value.get("uri")).startswith(_FILE):
        yield Path(value["uri"].removeprefix(_FILE))
    for part in value.values() if isinstance(value, dict) else value:
        if isinstance(part, dict | list):
            yield from _local_inputs(part)


def _stamps(path: Path) -> list[tuple[str, int, int]]:
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    return [(str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in files]


class Places(NamedTuple):
    """Where a run's files lie."""

    run_uri: str
    """Results, as in the cluster: below output.uri, in a folder of the run."""
    folder: Path
    """On this machine: logs, and scratch files while a stage runs."""

    @classmethod
    def of(cls, job: FineTuneJob, work: Path | None) -> "Places":
        """Choose them: scratch files beside results of this machine, unless ``work`` is given."""
        name = f"{job.metadata.name}-{identity(job)}"
        uri = f"{job.spec.output.uri.rstrip('/')}/{name}/"
        if work is not None:
            return cls(uri, work.absolute() / name)
        if uri.startswith(_FILE):
            return cls(uri, Path(uri.removeprefix(_FILE)))
        cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
        return cls(uri, Path(cache) / "tunesmith" / "runs" / name)


def build_run(
    plan: Plan, places: Places, stage: StageName, attempt: int, *, is_halved: bool = False
) -> TrainingRun:
    """Give the orders of one attempt. ``is_halved``: half the rows at once, twice as often."""
    spec, meta = plan.job.spec, plan.job.metadata
    given = spec.hyperparameters
    settings = given.halved() if is_halved else given
    is_train = stage is StageName.TRAIN
    return TrainingRun(
        job=JobRef(namespace=meta.namespace, name=meta.name, uid=identity(plan.job)),
        stage=stage,
        attempt=attempt,
        run_uri=places.run_uri,
        s3=connection(spec.s3),
        world=plan.world if is_train else World(),
        planned_gpus=None if is_train else _planned_gpus(plan),
        **sections_of(spec) | {"hyperparameters": settings},
    )


def _planned_gpus(plan: Plan) -> PlannedGpus | None:
    if plan.world.gpus_per_node == 0:
        return None
    return PlannedGpus(
        type=plan.devices.name,
        memory_bytes=plan.devices.memory_bytes,
        ranks=plan.world.ranks,
        sharding=plan.job.spec.compute.sharding,
    )


def connection(options: S3Options | None) -> S3Connection:
    """Give the way to S3: the job's, else the environment's. Keys are boto3's own to find."""
    given = options or S3Options()
    endpoint = given.endpoint or next((os.environ[n] for n in _ENDPOINTS if os.environ.get(n)), "")
    region = given.region or next((os.environ[n] for n in _REGIONS if os.environ.get(n)), "")
    # Most servers other than Amazon's want the bucket in the path.
    is_path = bool(endpoint) if given.path_style is None else given.path_style
    return S3Connection(endpoint=endpoint, region=region or "us-east-1", path_style=is_path)
