"""Services for experiment tracking that a run's curve is sent to: MLflow, Weights & Biases.

A section of `output`. TensorBoard's files, metrics.jsonl and Prometheus are always there and have
no settings.
"""

from typing import Annotated

from pydantic import ConfigDict, Field

from tunesmith_api.meta import NO_METADATA_SERVICE, HttpUrl, Rule, SecretRef, ShortText, Spec, cel

_AT_LEAST_ONE = Rule("has(self.mlflow) || has(self.wandb)", "set mlflow, wandb or both")


class Mlflow(Spec):
    """A run in an MLflow tracking server."""

    uri: Annotated[
        str,
        Field(
            max_length=512,
            pattern=r"^(https?://[^\s]+|(sqlite|file):///.+)$",
            json_schema_extra=cel(
                Rule(
                    "self.startsWith('http')",
                    "sqlite:// and file:// are for runs without a cluster: give the server's URL",
                ),
                NO_METADATA_SERVICE,
            ),
        ),
    ]
    """URL of the tracking server."""
    experiment: ShortText = ""
    """Name of the experiment, which is made where it does not exist. Empty: the job's name."""
    secret_ref: SecretRef | None = None
    """Secret with MLFLOW_TRACKING_TOKEN, or with MLFLOW_TRACKING_USERNAME and
    MLFLOW_TRACKING_PASSWORD. Absent: none are sent."""


class Wandb(Spec):
    """A run in Weights & Biases."""

    project: Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[^/\\#?%:]+$")]
    """Name of the project."""
    entity: Annotated[str, Field(max_length=128)] = ""
    """User or team that the project belongs to. Empty: that of the key."""
    base_url: HttpUrl | None = None
    """URL of a server of one's own. Default: https://api.wandb.ai."""
    secret_ref: SecretRef
    """Secret with WANDB_API_KEY."""


class Tracking(Spec):
    """Services that the curve is sent to while the run goes on. One that is away or slow never
    holds up training; what could not be sent is counted in the log."""

    model_config = ConfigDict(json_schema_extra=cel(_AT_LEAST_ONE))

    mlflow: Mlflow | None = None
    """MLflow. Needs mlflow-skinny in the trainer's image (the extra tracking)."""
    wandb: Wandb | None = None
    """Weights & Biases. Needs wandb in the trainer's image (the extra tracking)."""
