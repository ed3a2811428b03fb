"""Whether a version is offered to a ModelDeployment, row by row, through the whole of decide."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.unit.jobs import CONFIG, make_job
from tunesmith_api.conditions import ConditionType
from tunesmith_api.finetunejob import FineTuneJob
from tunesmith_api.jobstatus import ArtifactStatus, FineTuneJobStatus
from tunesmith_api.meta import Condition, ConditionStatus
from tunesmith_api.modelversion import ModelVersion, ModelVersionSpec
from tunesmith_operator.kube.parse import parse_target, parse_version
from tunesmith_operator.planning.actions import Decision, Emit, MakeVersion
from tunesmith_operator.planning.conditions import condition, find
from tunesmith_operator.planning.observed import Observation, SeenTarget, SeenVersion
from tunesmith_operator.planning.offers import target_name
from tunesmith_operator.planning.training import decide
from tunesmith_operator.resources.version import build_version

NOW = datetime(2026, 1, 1, tzinfo=UTC)
DIGEST = "sha256:" + "a" * 64
DEPLOY_TO = {"name": "chat"}
NOBODY = SeenTarget(exists=False)
FIXED = SeenTarget(exists=True)
STABLE = SeenTarget(True, "support", "stable")
NEXT = SeenTarget(True, "support", "next")
OTHER = SeenTarget(True, "sales", "stable")
SHARED = SeenTarget(True, "support", "stable", "VLLM", ("Adapter",))
LLAMA = SeenTarget(True, "support", "stable", "LlamaCpp", ("GGUF",))


def trained(tags: list[str] | None = None, **spec: Any) -> FineTuneJob:
    """Give a job whose results are written down and whose gates have passed."""
    output = {"uri": "s3://acme/models", "modelVersion": {"tags": tags or []}}
    job = make_job(**{"output": output, **spec})
    done = (ConditionType.ACCEPTED, ConditionType.TRAINED, ConditionType.EVALUATED)
    conditions = tuple(
        Condition(type=kind, status="True", reason="Done", last_transition_time=NOW)
        for kind in done
    )
    merged = ArtifactStatus(name="Merged", uri="s3://acme/m/", digest=DIGEST, size_bytes=1)
    status = FineTuneJobStatus(conditions=conditions, start_time=NOW, artifacts=(merged,))
    return job.model_copy(update={"status": status})


def with_adapter(job: FineTuneJob, added_tokens: int) -> FineTuneJob:
    """Give the job with an adapter among its results."""
    adapter = ArtifactStatus(
        name="Adapter",
        uri="s3://acme/a/",
        digest=DIGEST,
        size_bytes=1,
        added_tokens=added_tokens,
    )
    status = job.status
    made = status.model_copy(update={"artifacts": (adapter, *status.artifacts)})
    return job.model_copy(update={"status": made})


def made_by(decision: Decision) -> ModelVersionSpec:
    (made,) = [a.spec for a in decision.actions if isinstance(a, MakeVersion)]
    return made


def read_back(job: FineTuneJob, spec: ModelVersionSpec) -> SeenVersion:
    """Give the version as the next pass sees it, by way of the API server's JSON."""
    body = build_version(job, "support-v1", spec)
    ModelVersion.model_validate(body)
    return parse_version(body)


@pytest.mark.parametrize(
    ("tags", "target", "expected", "offer"),
    [
        pytest.param([], STABLE, ("stable",), "stable", id="the channel becomes the tag"),
        pytest.param(["a"], STABLE, ("a", "stable"), "stable", id="tags asked for come first"),
        pytest.param(["stable"], STABLE, ("stable",), "stable", id="a tag asked for anyway"),
        pytest.param(["a"], NOBODY, ("a",), None, id="no deployment"),
        pytest.param([], FIXED, (), None, id="a deployment of fixed files"),
        pytest.param([], OTHER, (), None, id="a deployment of another model"),
        pytest.param([], LLAMA, (), None, id="an engine that cannot serve any of it"),
    ],
)
def test_a_version_is_always_made_and_tagged_where_it_is_followed(
    tags: list[str], target: SeenTarget, expected: tuple[str, ...], offer: str | None
) -> None:
    decision = decide(Observation(trained(tags, deployTo=DEPLOY_TO), target=target), CONFIG, NOW)
    made = made_by(decision)
    assert made.tags == expected
    assert (made.offered_to.channel if made.offered_to else None) == offer
    assert find(decision.status.conditions, ConditionType.OFFERED) is None, "not before it exists"


def test_the_model_that_the_job_names_counts_not_the_job() -> None:
    output = {"uri": "s3://acme/models", "modelVersion": {"model": "sales"}}
    job = trained(output=output, deployTo=DEPLOY_TO)
    assert made_by(decide(Observation(job, target=OTHER), CONFIG, NOW)).tags == ("stable",)
    assert made_by(decide(Observation(job, target=STABLE), CONFIG, NOW)).tags == ()


def test_tags_need_no_deployment() -> None:
    decision = decide(Observation(trained(["stable"])), CONFIG, NOW)
    assert made_by(decision).tags == ("stable",)
    assert made_by(decision).offered_to is None


@pytest.mark.parametrize(
    ("then", "now", "status", "reason", "words"),
    [
        pytest.param(STABLE, STABLE, "True", "ChannelTagged", "the tag stable", id="offered"),
        pytest.param(
            STABLE, NEXT, "True", "ChannelTagged", "the tag stable", id="another channel since"
        ),
        pytest.param(STABLE, NOBODY, "True", "ChannelTagged", "chat followed", id="gone since"),
        pytest.param(
            NOBODY, NOBODY, "False", "DeploymentNotFound", "create one with", id="no deployment"
        ),
        pytest.param(
            FIXED, FIXED, "False", "NoChannelFollowed", "source.channel", id="fixed files"
        ),
        pytest.param(
            OTHER, OTHER, "False", "OtherModelFollowed", "follows model sales", id="another model"
        ),
        pytest.param(
            LLAMA,
            LLAMA,
            "False",
            "ArtifactMissing",
            "add GGUF to output.artifacts",
            id="no GGUF for llama.cpp",
        ),
        pytest.param(
            NOBODY,
            STABLE,
            "False",
            "OfferMissed",
            "nothing but modelVersion support-v1",
            id="too late",
        ),
    ],
)
@pytest.mark.parametrize("tags", [[], ["stable", "next"]], ids=["no tags", "its own tags"])
def test_what_is_said_is_what_the_version_was_made_with(
    tags: list[str], then: SeenTarget, now: SeenTarget, status: str, reason: str, words: str
) -> None:
    job = trained(tags, deployTo=DEPLOY_TO)
    made = made_by(decide(Observation(job, target=then), CONFIG, NOW))
    # Whether the first operator lived to write its status or not: the next pass begins with this.
    seen = Observation(job, versions=(read_back(job, made),), target=now)
    decision = decide(seen, CONFIG, NOW)
    said = find(decision.status.conditions, ConditionType.OFFERED)
    assert said is not None
    assert (said.status, said.reason) == (status, reason)
    assert words in said.message
    complete = find(decision.status.conditions, ConditionType.COMPLETE)
    assert complete is not None
    assert complete.status == "True"
    told = {(a.type, a.reason) for a in decision.actions if isinstance(a, Emit)}
    assert (("Normal", "Offered") if status == "True" else ("Warning", reason)) in told


@pytest.mark.parametrize("added", [0, 2])
def test_an_adapter_with_tokens_of_its_own_is_not_offered_to_pods_that_share_a_base_model(
    added: int,
) -> None:
    job = with_adapter(trained(deployTo=DEPLOY_TO), added)
    made = made_by(decide(Observation(job, target=SHARED), CONFIG, NOW))
    assert {a.format: a.added_tokens for a in made.artifacts} == {"Adapter": added, "Merged": 0}
    assert made.tags == (() if added else ("stable",))
    seen = Observation(job, versions=(read_back(job, made),), target=SHARED)
    said = find(decide(seen, CONFIG, NOW).status.conditions, ConditionType.OFFERED)
    assert said is not None
    if not added:
        assert said.status == "True"
        return
    assert (said.status, said.reason) == ("False", "ArtifactMissing")
    assert "brings 2 tokens" in said.message
    assert "Give the deployment delivery Merged" in said.message


def test_a_job_without_deploy_to_says_nothing_of_offers() -> None:
    job = trained()
    seen = Observation(job, versions=(SeenVersion("support-v1", "support", "1", "12345678-aaaa"),))
    decision = decide(seen, CONFIG, NOW)
    assert find(decision.status.conditions, ConditionType.OFFERED) is None
    assert find(decision.status.conditions, ConditionType.COMPLETE) is not None


def test_nothing_is_made_before_the_deployment_was_looked_at() -> None:
    decision = decide(Observation(trained(deployTo=DEPLOY_TO)), CONFIG, NOW)
    assert decision.actions == ()
    assert decision.look_again is not None


def with_condition(job: FineTuneJob, kind: ConditionType, **more: Any) -> FineTuneJob:
    new = condition(kind, ConditionStatus.TRUE, "Done", "", generation=1, now=NOW)
    status = job.status.model_copy(update={"conditions": (new,), **more})
    return job.model_copy(update={"status": status})


@pytest.mark.parametrize(
    ("job", "name"),
    [
        pytest.param(trained(deployTo=DEPLOY_TO), "chat", id="a trained job"),
        pytest.param(trained(), None, id="a job that offers nothing"),
        pytest.param(make_job(deployTo=DEPLOY_TO), None, id="a job in training"),
        pytest.param(
            with_condition(
                make_job(deployTo=DEPLOY_TO), ConditionType.TRAINED, completion_time=NOW
            ),
            None,
            id="a job that has ended",
        ),
    ],
)
def test_the_deployment_is_read_only_when_there_is_something_to_offer(
    job: FineTuneJob, name: str | None
) -> None:
    assert target_name(job) == name


@pytest.mark.parametrize(
    ("body", "seen"),
    [
        pytest.param(None, NOBODY, id="none"),
        pytest.param(
            {
                "metadata": {},
                "spec": {
                    "source": {"model": "support", "channel": "stable"},
                    "engine": {"type": "Newer"},
                    "delivery": "Merged",
                },
            },
            replace(STABLE, engine="Newer"),
            id="one with an engine that is not known",
        ),
        *(
            pytest.param(
                {
                    "metadata": {},
                    "spec": {
                        "source": {"modelVersion": "v"},
                        "engine": {"gpus": gpus},
                        "delivery": "Merged",
                    },
                },
                replace(FIXED, engine=engine, formats=formats),
                id=f"a fixed one with the default engine of {gpus} GPUs",
            )
            for gpus, engine, formats in ((0, "LlamaCpp", ("GGUF",)), (1, "VLLM", ("Merged",)))
        ),
        pytest.param(
            {
                "metadata": {},
                "spec": {
                    "source": {"model": "support", "channel": "stable"},
                    "engine": {"type": "LlamaCpp"},
                    "delivery": "Merged",
                },
            },
            LLAMA,
            id="its engine",
        ),
        pytest.param(
            {
                "metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"},
                "spec": {"source": {"model": "support", "channel": "stable"}},
            },
            NOBODY,
            id="one that is being deleted",
        ),
    ],
)
def test_what_is_seen_of_a_deployment(body: Any, seen: SeenTarget) -> None:
    assert parse_target(body) == seen
