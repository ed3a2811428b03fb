"""How a canary is judged: metrics, limits, providers, and what follows when there is no data.

A section of a ModelDeployment's spec, and the words of a verdict. Read by planning, by the
edge that measures, and by the API server, which checks the rules. Measures nothing itself.
"""

from enum import StrEnum
from typing import Annotated

from pydantic import ConfigDict, Field, JsonValue

from tunesmith_api.meta import DecimalText, HttpUrl, Name, Rule, Spec, cel, exactly_one, section


class Verdict(StrEnum):
    """What is known about a canary. Only Pass lets its weight rise; only Fail is its fault."""

    PASS = "Pass"  # noqa: S105 - a verdict, not a password
    FAIL = "Fail"
    NO_DATA = "NoData"
    """Too little traffic, of the canary or of stable."""
    PROVIDER_ERROR = "ProviderError"
    """Whoever measures could not be asked, or gave no number. Says nothing of the canary."""


class BuiltinMetric(StrEnum):
    """What the sidecar of every engine counts."""

    ERROR_RATE = "ErrorRate"
    LATENCY_P50 = "LatencyP50"
    LATENCY_P95 = "LatencyP95"
    LATENCY_P99 = "LatencyP99"
    TIME_TO_FIRST_TOKEN_P95 = "TimeToFirstTokenP95"  # noqa: S105 - tokens of text
    TOKENS_PER_SECOND = "TokensPerSecond"
    RESTARTS = "Restarts"


class Better(StrEnum):
    """Which way a metric improves."""

    LOWER = "Lower"
    HIGHER = "Higher"


class MetricBase(StrEnum):
    """What a metric is compared with."""

    STABLE = "Stable"


class PromptMatch(StrEnum):
    """When an answer counts as right."""

    EXACT = "Exact"
    CONTAINS = "Contains"
    REGEX = "Regex"
    SIMILARITY = "Similarity"
    JUDGE = "Judge"


class ConfigMapRef(Spec):
    """A ConfigMap in the namespace of the object."""

    name: Name
    """Name of the ConfigMap."""
    key: Annotated[str, Field(max_length=253, pattern=r"^[-._a-zA-Z0-9]+$")] = "prompts.jsonl"
    """Key that holds one JSON object {"prompt": …, "answer": …} on each line."""


class Judge(Spec):
    """An OpenAI-compatible endpoint that scores answers from 0 to 1. It is asked without a key."""

    url: HttpUrl
    """Base URL, such as http://judge.models/v1."""
    model: Annotated[str, Field(max_length=253)] = ""
    """Model to ask for. Empty: the endpoint's only one."""


class GoldenPrompts(Spec):
    """Questions with known answers. The value is the share of right answers, from 0 to 1."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            Rule(
                "has(self.judge) == (self.match == 'Judge')",
                "match Judge needs judge, and judge needs match Judge",
            )
        )
    )

    config_map_ref: ConfigMapRef
    """Where the questions are."""
    match: PromptMatch = PromptMatch.CONTAINS
    """When an answer is right. Similarity gives the mean similarity, Judge the mean score."""
    judge: Judge | None = None
    """Who scores, with match Judge."""
    max_prompts: Annotated[int, Field(ge=1, le=200)] = 20
    """How many are asked for a sample, in a fixed order."""
    max_tokens: Annotated[int, Field(ge=1, le=4096)] = 128
    """Longest answer, in tokens. All answers together must come within a sample's time, which is
    intervalSeconds but at least 10 and at most 60: a bad model may come to no end by itself."""


_IS_TOKENS = "(has(self.builtin) && self.builtin == 'TokensPerSecond')"
_IS_SHARE = "(has(self.goldenPrompts) || (has(self.builtin) && self.builtin == 'ErrorRate'))"

_METRIC_RULES = (
    exactly_one("builtin", "query", "goldenPrompts"),
    Rule(
        "has(self.min) || has(self.max) || has(self.comparedWith)",
        "a metric needs a limit: set min, max, or comparedWith with maxRegressionPercent",
    ),
    Rule(
        "has(self.comparedWith) == has(self.maxRegressionPercent)",
        "comparedWith and maxRegressionPercent belong together: set both or none",
    ),
    Rule(
        "!has(self.min) || !has(self.max) || double(self.min) <= double(self.max)",
        "min must not be above max",
    ),
    Rule(
        "!has(self.better) || has(self.query)",
        "better is for query only: which way other metrics improve is known",
    ),
    # A limit on the good side alone lets the worst canary pass.
    Rule(
        f"!has(self.builtin) || {_IS_TOKENS} || has(self.max) || has(self.comparedWith)",
        "error rates, times and restarts are bad when they are high: set max, or comparedWith with"
        " maxRegressionPercent",
    ),
    Rule(
        f"!(has(self.goldenPrompts) || {_IS_TOKENS}) || has(self.min) || has(self.comparedWith)",
        "goldenPrompts and TokensPerSecond are bad when they are low: set min, or comparedWith with"
        " maxRegressionPercent",
    ),
    Rule(
        f"!{_IS_SHARE} || !has(self.min) || (double(self.min) >= 0.0 && double(self.min) <= 1.0)",
        "min of an ErrorRate or of goldenPrompts must be between 0 and 1: it is a share, 0.9 is 9"
        " of 10",
    ),
    Rule(
        f"!{_IS_SHARE} || !has(self.max) || (double(self.max) >= 0.0 && double(self.max) <= 1.0)",
        "max of an ErrorRate or of goldenPrompts must be between 0 and 1: it is a share, 0.01 is"
        " one in a hundred",
    ),
    Rule(
        "!has(self.builtin) || self.builtin != 'ErrorRate' || !has(self.max)"
        " || double(self.max) < 1.0",
        "max of an ErrorRate must be below 1: every request may fail with 1",
    ),
    Rule(
        "!has(self.goldenPrompts) || !has(self.min) || double(self.min) > 0.0",
        "min of goldenPrompts must be above 0: every answer may be wrong with 0",
    ),
    Rule(
        "!has(self.builtin) || !has(self.max) || double(self.max) >= 0.0",
        "max of a builtin must be at least 0: none is ever below",
    ),
)


class AnalysisMetric(Spec):
    """One thing a canary is judged by. Exactly one of builtin, query and goldenPrompts is set."""

    model_config = ConfigDict(json_schema_extra=cel(*_METRIC_RULES))

    name: Annotated[str, Field(max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]
    """Name in status and Events."""
    builtin: BuiltinMetric | None = None
    """What the sidecars count: ErrorRate as a share from 0 to 1, latencies and times to first
    token in seconds, TokensPerSecond of one answer, Restarts of the engine (0 on shared pods)."""
    query: Annotated[str, Field(min_length=1, max_length=2048)] | None = None
    """Query of the provider, for one number. {{revision}} stands for the revision's pods."""
    golden_prompts: GoldenPrompts | None = None
    """Questions with known answers."""
    min: DecimalText | None = None
    """The value must be at least this. goldenPrompts and TokensPerSecond need it, or
    comparedWith."""
    max: DecimalText | None = None
    """The value must be at most this. The other builtins need it, or comparedWith."""
    compared_with: MetricBase | None = None
    """Stable: the value is also held against that of the stable revision over the same time."""
    max_regression_percent: Annotated[int, Field(ge=0, le=10_000)] | None = None
    """By how much it may be worse than stable's. Where stable's value is 0, as an error rate may
    well be, anything worse fails; add max for a limit that stands by itself."""
    better: Better | None = None
    """Which way the query's value improves, for maxRegressionPercent. Default: Lower."""


class ProviderType(StrEnum):
    """Who measures."""

    BUILTIN = "Builtin"
    PROMETHEUS = "Prometheus"
    WEBHOOK = "Webhook"


class Endpoint(Spec):
    """Where a provider answers."""

    url: HttpUrl
    """Base URL."""
    timeout_seconds: Annotated[int, Field(ge=1, le=60)] = 5
    """Time for one answer; after it the sample is a ProviderError."""


class Provider(Spec):
    """Who measures."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            Rule(
                "has(self.prometheus) == (self.type == 'Prometheus')",
                "type Prometheus needs prometheus, and prometheus needs type Prometheus",
            ),
            Rule(
                "has(self.webhook) == (self.type == 'Webhook')",
                "type Webhook needs webhook, and webhook needs type Webhook",
            ),
        )
    )

    type: ProviderType = ProviderType.BUILTIN
    """Builtin asks pods and router. Prometheus answers builtin and query metrics. Webhook answers
    query metrics, the others come as with Builtin."""
    prometheus: Endpoint | None = None
    """The Prometheus server."""
    webhook: Endpoint | None = None
    """Gets POST {metric, query, revision, stableRevision}, answers {value, stableValue,
    requests, stableRequests}."""


class OnInsufficientData(StrEnum):
    """What follows while there is not enough data. Promotion never does."""

    HOLD = "Hold"
    ROLL_BACK = "RollBack"


_ANALYSIS_RULES = (
    Rule(
        "self.failureLimit <= self.window",
        "failureLimit must be at most window: more samples than are kept can never have failed",
    ),
    Rule(
        "self.dataTimeoutSeconds >= self.intervalSeconds",
        "dataTimeoutSeconds must be at least intervalSeconds: no sample would ever be in time",
    ),
    Rule(
        "!has(self.confirmSeconds) || self.confirmSeconds <= self.intervalSeconds",
        "confirmSeconds must be at most intervalSeconds, which turns it off",
    ),
    Rule(
        "self.provider.type != 'Builtin' || !self.metrics.exists(m, has(m.query))",
        "a metric with query needs provider.type Prometheus or Webhook",
    ),
)

_DEFAULT_METRIC: dict[str, JsonValue] = {
    "name": "error-rate",
    "builtin": "ErrorRate",
    "max": "0.01",
}


class Analysis(Spec):
    """How the canary is judged."""

    model_config = ConfigDict(json_schema_extra=cel(*_ANALYSIS_RULES))

    interval_seconds: Annotated[int, Field(ge=1, le=3600)] = 30
    """Seconds between two samples of all metrics."""
    confirm_seconds: Annotated[int, Field(ge=1, le=3600)] | None = None
    """Seconds after which a metric that has just failed is sampled again, and after which a step is
    first sampled; both once minRequests have come since. Only for builtin metrics that the pods
    count, and only to find failures: no weight rises by it. Default: a fifth of intervalSeconds, at
    least 1; as many as intervalSeconds turn it off."""
    window: Annotated[int, Field(ge=1, le=20)] = 5
    """How many samples of a metric are remembered, of those that could be judged."""
    failure_limit: Annotated[int, Field(ge=1, le=20)] = 3
    """The canary is rolled back at this many failed samples of one metric within the window. 1
    ends it at the first. Each sample has requests of its own."""
    min_requests: Annotated[int, Field(ge=0, le=1_000_000)] = 200
    """Requests a value must be taken over, of the canary and, where it is compared, of stable.
    Fewer are NoData. Golden prompts need none."""
    on_insufficient_data: OnInsufficientData = OnInsufficientData.HOLD
    """Hold waits, until dataTimeoutSeconds. RollBack waits only until the step's hold is over."""
    data_timeout_seconds: Annotated[int, Field(ge=10, le=604_800)] = 3600
    """Seconds without a usable sample of every metric after which the canary is rolled back."""
    provider: Provider = Field(default_factory=Provider, json_schema_extra=section())
    """Who measures."""
    metrics: Annotated[tuple[AnalysisMetric, ...], Field(min_length=1, max_length=16)] = Field(
        default_factory=lambda: (AnalysisMetric.model_validate(_DEFAULT_METRIC),),
        json_schema_extra={
            "default": [_DEFAULT_METRIC],
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["name"],
        },
    )
    """What it is judged by; all must pass."""
