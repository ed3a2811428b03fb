"""Which earlier versions a train attempt measures, through the JSON that they are read from."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.unit.jobs import CONFIG, make_job
from tunesmith_api.attempts import ActiveAttempt, StageName
from tunesmith_api.jobstatus import FineTuneJobStatus
from tunesmith_api.meta import Condition
from tunesmith_operator.kube.parse import parse_target, parse_version
from tunesmith_operator.planning.actions import StartAttempt
from tunesmith_operator.planning.baselines import choose_baselines
from tunesmith_operator.planning.observed import Observation, SeenTarget, SeenVersion
from tunesmith_operator.planning.offers import target_name
from tunesmith_operator.planning.training import decide

NOW = datetime(2026, 1, 1, tzinfo=UTC)
MERGED, ADAPTER = "sha256:" + "a" * 64, "sha256:" + "b" * 64


def version(number: int, formats: str = "Merged", base: str = "hf://org/model") -> SeenVersion:
    digests = {"Merged": MERGED, "Adapter": ADAPTER, "GGUF": MERGED}
    return parse_version(
        {
            "metadata": {
                "name": f"support-v{number}",
                "creationTimestamp": f"2026-01-{number:02}T00:00:00Z",
            },
            "spec": {
                "model": "support",
                "version": str(number),
                "baseModel": {"uri": base},
                "artifacts": [
                    {"format": f, "uri": f"s3://acme/{number}/{f.lower()}/", "digest": digests[f]}
                    for f in formats.split()
                ],
            },
        }
    )


def target(stable: str) -> SeenTarget:
    source = {"model": "support", "channel": "stable"}
    return parse_target(
        {
            "metadata": {},
            "spec": {"source": source},
            "status": {"stable": {"version": stable, "revision": 1}} if stable else {},
        }
    )


def job(*baselines: str) -> Any:
    return make_job(evaluation={"baselines": list(baselines)}, deployTo={"name": "chat"})


@pytest.mark.parametrize(
    ("baselines", "versions", "stable", "expected"),
    [
        pytest.param(["Base"], [version(1)], "support-v1", [], id="not asked for"),
        pytest.param(["Previous", "Deployed"], [], "", [], id="the first job ever"),
        pytest.param(
            ["Previous"],
            [version(9), version(10), version(2)],
            "",
            [("Previous", "support-v10", "Merged", MERGED)],
            id="the newest, not the last by name",
        ),
        pytest.param(
            ["Base", "Previous", "Deployed"],
            [version(1), version(2)],
            "support-v1",
            [
                ("Previous", "support-v2", "Merged", MERGED),
                ("Deployed", "support-v1", "Merged", MERGED),
            ],
            id="what is served is older than the newest",
        ),
        pytest.param(
            ["Previous"],
            [version(1, "Adapter")],
            "",
            [("Previous", "support-v1", "Adapter", ADAPTER)],
            id="an adapter of the same base",
        ),
        pytest.param(
            ["Previous"],
            [version(1, "Adapter", "hf://org/other")],
            "",
            [],
            id="an adapter of another base",
        ),
        pytest.param(["Previous"], [version(1, "GGUF")], "", [], id="nothing that can be loaded"),
    ],
)
def test_what_is_measured(
    baselines: list[str], versions: list[SeenVersion], stable: str, expected: list[Any]
) -> None:
    seen = Observation(job(*baselines), versions=tuple(versions), target=target(stable))
    found = choose_baselines(seen)
    assert [(m.name, m.version, m.form, m.digest) for m in found] == expected


def test_a_version_of_the_jobs_own_is_not_what_came_before() -> None:
    """It may be there when an operator takes the job on again; beside itself nothing is better."""
    own = replace(version(3), job_uid=job().metadata.uid)
    for versions, expected in (((version(2), own), ["support-v2"]), ((own,), [])):
        found = choose_baselines(Observation(job("Previous"), versions=versions))
        assert [model.version for model in found] == expected


def test_only_the_train_attempt_gets_them() -> None:
    ready = Condition(type="DataReady", status="True", reason="Done", last_transition_time=NOW)
    for conditions, expected in (((), 0), ((ready,), 1)):
        status = FineTuneJobStatus(conditions=conditions, start_time=NOW)
        seen = Observation(
            job("Previous").model_copy(update={"status": status}), versions=(version(1),)
        )
        (start,) = [a for a in decide(seen, CONFIG, NOW).actions if isinstance(a, StartAttempt)]
        assert len(start.run.baselines) == expected


@pytest.mark.parametrize(
    ("baselines", "stage", "is_looked_at"),
    [
        pytest.param(["Deployed"], None, True, id="before it starts"),
        pytest.param(["Deployed"], StageName.PREPARE, True, id="while data is prepared"),
        pytest.param(["Deployed"], StageName.TRAIN, False, id="not while it trains"),
        pytest.param(["Base"], StageName.PREPARE, False, id="nobody asks"),
    ],
)
def test_the_deployment_is_looked_at_until_training_begins(
    baselines: list[str], stage: StageName | None, is_looked_at: bool
) -> None:
    active = stage and ActiveAttempt(number=1, stage=stage, job_name="j", start_time=NOW)
    status = FineTuneJobStatus(active=active)
    asked = job(*baselines).model_copy(update={"status": status})
    assert (target_name(asked) == "chat") is is_looked_at
