"""What a run is called in tracking services, so that every attempt goes on with the same one. Pure.

Called by `session`; the services put it into their own words.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tunesmith_api.meta import Digest
from tunesmith_api.run import TrainingRun

_PARAMETER_LENGTH = 500


@dataclass(frozen=True)
class Identity:
    """A run, as a service is told of it."""

    key: str
    """32 hexadecimal digits; the same for all attempts that do the same steps."""
    name: str
    tags: dict[str, str]
    parameters: dict[str, str]

    @classmethod
    def of(cls, run: TrainingRun, inputs: Digest, dataset: Digest, report_uri: str) -> "Identity":
        """Describe a run whose inputs have the digest `inputs`."""
        sections = {
            "model": run.model.model_dump(mode="json", by_alias=True, exclude={"secret_ref"}),
            "method": run.method.model_dump(mode="json", by_alias=True, exclude_none=True),
            "hyperparameters": run.hyperparameters.model_dump(
                mode="json", by_alias=True, exclude_none=True
            ),
        }
        return cls(
            key=hashlib.sha256(f"{run.job.uid} {inputs}".encode()).hexdigest()[:32],
            name=run.job.name,
            tags={
                "tunesmith.job": f"{run.job.namespace}/{run.job.name}",
                "tunesmith.uid": run.job.uid,
                "tunesmith.attempt": str(run.attempt),
                "tunesmith.dataset": dataset,
                "tunesmith.report": report_uri,
            },
            parameters=dict(_flat(sections)),
        )


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else key)
    else:
        yield name, str(value)[:_PARAMETER_LENGTH]
