"""How the trainer is started: plainly, or by ``accelerate launch`` where several ranks train."""

from tunesmith_api.attempts import StageName
from tunesmith_api.run import RUN_PATH, TrainingRun

RENDEZVOUS_PORT = 29500


def command(run: TrainingRun, service: str, job_name: str) -> list[str]:
    """Give the container's command."""
    arguments = ["--run", RUN_PATH]
    world = run.world
    if run.stage is StageName.PREPARE or world.ranks == 1:
        return ["python3", "-m", "tunesmith_trainer", *arguments]
    several = [
        # The Job controller sets the variable; the kubelet fills it in, no shell is needed.
        "--machine_rank=$(JOB_COMPLETION_INDEX)",
        f"--main_process_ip={job_name}-0.{service}",
        f"--main_process_port={RENDEZVOUS_PORT}",
        "--rdzv_backend=static",
    ]
    return [
        "accelerate",
        "launch",
        # Also on CPUs: --cpu starts one process without ranks and passes no SIGTERM on. The trainer
        # picks the device, and gloo or nccl, by itself.
        "--multi_gpu",
        f"--num_machines={world.nodes}",
        f"--num_processes={world.ranks}",
        *(several if world.nodes > 1 else []),
        "--mixed_precision=no",
        "--dynamo_backend=no",
        "--num_cpu_threads_per_process=1",
        "--module",
        "tunesmith_trainer",
        *arguments,
    ]


def environment(grace_seconds: int) -> list[dict[str, str]]:
    """Variables of the container.

    torchrun kills its workers 30 s after SIGTERM unless it is told otherwise; they get what the
    pod gets, less a little for the launcher itself.
    """
    return [
        {
            "name": "TORCH_ELASTIC_SHUTDOWN_TIMEOUT",
            "value": str(max(5, grace_seconds - 5)),
        }
    ]
