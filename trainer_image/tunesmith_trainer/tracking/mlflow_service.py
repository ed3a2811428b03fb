"""MLflow, through its own client. Used by one `Sender`; imported only when it is asked for."""

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Experiment, Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from tunesmith_api.tracking import Mlflow
from tunesmith_trainer.keys import MLFLOW_KEYS
from tunesmith_trainer.tracking.identity import Identity
from tunesmith_trainer.tracking.sending import Ending, Point

_KEY = "tunesmith.run"
# Limits of the server's log-batch call.
_METRICS, _PARAMETERS = 1000, 100
_STATUS = {
    Ending.FINISHED: "FINISHED",
    Ending.INTERRUPTED: "KILLED",
    Ending.FAILED: "FAILED",
}


class MlflowService:
    """A run in an experiment, found again by the tag `tunesmith.run`."""

    def __init__(self, settings: Mlflow, identity: Identity, credentials: Path) -> None:
        """`credentials` is the folder with the Secret's keys, which need not be there."""
        self._settings, self._identity = settings, identity
        # The client reads them from nowhere else.
        for key in MLFLOW_KEYS:
            if (file := credentials / key).is_file():
                os.environ[key] = file.read_text().strip()
        # Its own repeats would hide an outage for minutes; ours are the sender's.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        self._client = MlflowClient(tracking_uri=settings.uri)
        self._run = ""

    def open(self) -> Mapping[str, int]:
        """Find or make the run, and say that it runs."""
        identity, client = self._identity, self._client
        experiment = self._experiment(self._settings.experiment or identity.name)
        found = client.search_runs(
            [experiment],
            filter_string=f"tags.`{_KEY}` = '{identity.key}'",
            order_by=["attributes.start_time ASC"],
            max_results=1,
        )
        tags = identity.tags | {_KEY: identity.key}
        if not found:
            self._run = client.create_run(experiment, run_name=identity.name, tags=tags).info.run_id
            parameters = [Param(k, v) for k, v in identity.parameters.items()]
            for part in _parts(parameters):
                client.log_batch(self._run, params=part)
            return {}
        self._run = found[0].info.run_id
        client.log_batch(self._run, tags=[RunTag(k, v) for k, v in tags.items()])
        client.update_run(self._run, status="RUNNING")
        return {
            metric: max(point.step for point in client.get_metric_history(self._run, metric))
            for metric in found[0].data.metrics
        }

    def send(self, points: Sequence[Point]) -> None:
        """Write points."""
        metrics = [
            Metric(name, value, round(point.time * 1000), point.step)
            for point in points
            for name, value in point.values.items()
        ]
        for start in range(0, len(metrics), _METRICS):
            self._client.log_batch(self._run, metrics=metrics[start : start + _METRICS])

    def close(self, ending: Ending) -> None:
        """End the run; a later attempt may begin it again."""
        self._client.set_terminated(
            self._run, status=_STATUS[ending], end_time=round(time.time() * 1000)
        )

    def _experiment(self, name: str) -> str:
        found: Experiment | None = self._client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(self._client.create_experiment(name))
            except MlflowException:  # another job was faster
                found = self._client.get_experiment_by_name(name)
                if found is None:
                    raise
        return str(found.experiment_id)


def _parts(parameters: list[Param]) -> list[list[Param]]:
    return [
        parameters[start : start + _PARAMETERS] for start in range(0, len(parameters), _PARAMETERS)
    ]
