"""Which tracking services a run asks for, and whether this image has their packages.

Called by `prepare`, before anything is fetched, and by `recipe`.
"""

import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from tunesmith_api.result import UserErrorReason
from tunesmith_api.run import CREDENTIALS_PATH, TrainingRun
from tunesmith_trainer.outcome import UserError
from tunesmith_trainer.tracking.eventfile import EventFile
from tunesmith_trainer.tracking.identity import Identity
from tunesmith_trainer.tracking.sending import Sender, Service
from tunesmith_trainer.tracking.session import EVENTS, Tracking

if TYPE_CHECKING:
    # They import torch, which prepare has no use for.
    from tunesmith_trainer.attempt import Attempt
    from tunesmith_trainer.inputs import Inputs

_PACKAGES = {"mlflow": "mlflow-skinny", "wandb": "wandb"}


def check_tracking(run: TrainingRun, credentials: Path = Path(CREDENTIALS_PATH)) -> None:
    """Raise UserError PackageMissing or CredentialsMissing for a service that cannot be used."""
    tracking = run.output.tracking
    if tracking is None:
        return
    for module, package in _PACKAGES.items():
        if getattr(tracking, module) and find_spec(module) is None:
            raise UserError(
                UserErrorReason.PACKAGE_MISSING,
                f"output.tracking.{module} needs the package {package}, which is not in the"
                " trainer's image. Set compute.image to one with the extra tracking, or remove"
                f" output.tracking.{module}.",
            )
    if tracking.wandb and not (credentials / "wandb" / "WANDB_API_KEY").is_file():
        raise UserError(
            UserErrorReason.CREDENTIALS_MISSING,
            f"Secret {tracking.wandb.secret_ref.name}, named in output.tracking.wandb.secretRef,"
            " lacks WANDB_API_KEY.",
        )


def begin_tracking(
    attempt: "Attempt",
    inputs: "Inputs",
    resumed: Path | None,
    credentials: Path = Path(CREDENTIALS_PATH),
) -> Tracking:
    """Begin to track on rank 0; `resumed` is the directory of the checkpoint gone on from."""
    if not attempt.ranks.is_main:
        return Tracking(None)
    run, work = attempt.run, attempt.work
    begun = (resumed / EVENTS).read_bytes() if resumed else b""
    events = EventFile(work / EVENTS, begun, now=time.time())
    dataset = inputs.data.meta.dataset_digest
    identity = Identity.of(run, inputs.digest, dataset, f"{run.run_uri}report.json")
    makers = _makers(run, identity, work, credentials)
    return Tracking(events, [Sender(name, make) for name, make in makers.items()])


def _makers(
    run: TrainingRun, identity: Identity, work: Path, credentials: Path
) -> dict[str, Callable[[], Service]]:
    tracking = run.output.tracking
    makers: dict[str, Callable[[], Service]] = {}
    if tracking and (mlflow := tracking.mlflow):

        def make_mlflow() -> Service:
            from tunesmith_trainer.tracking.mlflow_service import MlflowService

            return MlflowService(mlflow, identity, credentials / "mlflow")

        makers["mlflow"] = make_mlflow
    if tracking and (wandb := tracking.wandb):

        def make_wandb() -> Service:
            from tunesmith_trainer.tracking.wandb_service import WandbService

            return WandbService(wandb, identity, credentials / "wandb", work / "wandb")

        makers["wandb"] = make_wandb
    return makers
