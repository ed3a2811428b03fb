"""Keys for services: from a Secret's folder in a pod, from the environment without a cluster.

Gives them to whoever calls a service, and says which are missing before anything runs; never logs
them.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tunesmith_api.meta import SecretRef
from tunesmith_api.result import UserErrorReason
from tunesmith_api.run import CREDENTIALS_PATH, TrainingRun, judge_folder
from tunesmith_trainer.outcome import UserError

JUDGE_KEY = "API_KEY"
GENERATOR_KEY = "OPENAI_API_KEY"
GENERATOR_FOLDER = "generator"
MLFLOW_KEYS = ("MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")


class _Named(NamedTuple):
    """A Secret that the job names."""

    field: str
    folder: str
    secret: SecretRef | None
    keys: Sequence[str]
    """One of them must be there."""


def read_key(folder: Path, name: str, *, is_asked: bool = True) -> str:
    """Give the key ``name`` of the Secret mounted at ``folder``, else the variable of that name.

    Empty where there is neither. ``is_asked``: whether the job names a Secret at all; otherwise a
    variable is somebody else's.
    """
    file = folder / name
    if file.is_file():
        return file.read_text(encoding="utf-8").strip()
    return os.environ.get(name, "").strip() if is_asked else ""


def check_keys(run: TrainingRun, credentials: Path = Path(CREDENTIALS_PATH)) -> None:
    """Raise UserError (CredentialsMissing) for an endpoint whose Secret has no key.

    An endpoint without a ``secretRef`` is asked without a key; one with it never is by mistake.
    """
    for field, folder, secret, keys in _named(run):
        if secret is None or any(read_key(credentials / folder, key) for key in keys):
            continue
        raise UserError(
            UserErrorReason.CREDENTIALS_MISSING,
            f"Secret {secret.name}, named in {field}.secretRef, does not exist or lacks"
            f" {' or '.join(keys[:2])}. Create it in the job's namespace, or leave secretRef out"
            " where no key is asked for. Without a cluster set a variable of that name.",
        )


def _named(run: TrainingRun) -> Iterator[_Named]:
    for place, suite in enumerate(run.evaluation.suites):
        if suite.judge is not None:
            field, folder = f"evaluation.suites[{place}].judge", judge_folder(place)
            yield _Named(field, folder, suite.judge.secret_ref, (JUDGE_KEY,))
    if run.dataset.synthetic is not None:
        field, secret = "dataset.synthetic.generator", run.dataset.synthetic.generator.secret_ref
        yield _Named(field, GENERATOR_FOLDER, secret, (GENERATOR_KEY,))
    tracking = run.output.tracking
    if tracking is not None and tracking.mlflow is not None:
        yield _Named("output.tracking.mlflow", "mlflow", tracking.mlflow.secret_ref, MLFLOW_KEYS)
