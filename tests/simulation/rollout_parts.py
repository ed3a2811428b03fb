"""What a toy world of roll-outs is made of: rules, models, faults, pods, sick providers."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from tunesmith_api.modeldeployment import ModelDeployment
from tunesmith_api.modelversion import ModelVersion
from tunesmith_api.revision import RevisionTemplate
from tunesmith_operator.kube.known import Key
from tunesmith_operator.planning.serving import (
    MetricSample,
)

START = datetime(2026, 1, 1, tzinfo=UTC)
REQUESTS_PER_SECOND = 40
MEASURING_TAKES = timedelta(milliseconds=200)
KEY = Key(ModelDeployment.KIND, "team", "chat")
RENEW_DEADLINE = 8
RESYNC = timedelta(seconds=300)
RULES: dict[str, Any] = {
    "steps": [{"weight": 25, "holdSeconds": 10}, {"weight": 50, "holdSeconds": 10}],
    "readyTimeoutSeconds": 40,
    "analysis": {
        "intervalSeconds": 5,
        "window": 5,
        "failureLimit": 3,
        "minRequests": 20,
        "dataTimeoutSeconds": 60,
        "metrics": [
            {"name": "error-rate", "builtin": "ErrorRate", "max": "0.05"},
            {
                "name": "latency",
                "builtin": "LatencyP95",
                "comparedWith": "Stable",
                "maxRegressionPercent": 50,
                "max": "2",
            },
        ],
    },
    "rollback": {"keepStableWarmSeconds": 60},
}
GOLDEN = {"name": "quality", "goldenPrompts": {"configMapRef": {"name": "golden"}}, "min": "0.9"}


@dataclass(frozen=True)
class Model:
    """How a model version really behaves."""

    error_rate: float = 0.0
    latency: str = "0.5"
    quality: str = "0.95"
    crashes_after: int = 0
    """Seconds a pod lives once it is ready; 0 is for ever."""
    never_ready: str = ""
    refused: str = ""


GOOD = Model()


@dataclass(frozen=True)
class Faults:
    """How likely each thing is to go wrong, per second."""

    evict: float = 0.0
    operator_dies: float = 0.0
    conflict: float = 0.0
    answer_lost: float = 0.0
    away: float = 0.0
    provider: float = 0.0
    no_traffic: float = 0.0
    router_silent: float = 0.0
    router_slow: float = 0.0
    router_edited: float = 0.0
    spec_changes: float = 0.0
    scaled: float = 0.0
    paused: float = 0.0
    plan_changes: float = 0.0
    approved: float = 0.0
    slow_samples: float = 0.0
    files_lost: float = 0.0


@dataclass
class Pod:
    """A pod of a revision."""

    starts_in: int = 3
    is_ready: bool = False
    restarts: int = 0
    lived: int = 0


@dataclass
class Revision:
    """A revision's record and pods."""

    name: str
    number: int
    digest: str
    template: RevisionTemplate
    replicas: int
    pods: list[Pod] = field(default_factory=list)
    requests: int = 0
    failed: int = 0
    consecutive: int = 0

    @property
    def ready(self) -> int:
        return sum(p.is_ready for p in self.pods)

    @property
    def is_whole(self) -> bool:
        return 1 <= self.replicas <= self.ready


def _down() -> MetricSample:
    return MetricSample("", error="connection refused")


def _empty() -> MetricSample:
    return MetricSample("", "", "", 1000, 1000)


def _not_a_number() -> MetricSample:
    return MetricSample("", "NaN", "NaN", 1000, 1000)


def _text() -> MetricSample:
    return MetricSample("", "<html>502</html>", "<html>502</html>", 1000, 1000)


def _invalid() -> MetricSample:
    return MetricSample("", error="parse error: unclosed left parenthesis", needs_change=True)


def _idle() -> MetricSample:
    return MetricSample("", "", "", 0, 1000)


SICK = [_down, _empty, _not_a_number, _text, _invalid]
DOWN, EMPTY, NAN, TEXT, INVALID = SICK
IDLE = _idle


def _version(number: int) -> ModelVersion:
    files = {
        "format": "GGUF",
        "uri": f"s3://models/v{number}/",
        "digest": f"sha256:{number:064d}",
        "sizeBytes": 1,
    }
    return ModelVersion.model_validate(
        {
            "metadata": {"name": f"m-v{number}"},
            "spec": {"model": "m", "version": str(number), "artifacts": [files]},
        }
    )


VERSIONS = tuple(_version(n) for n in range(1, 7))
