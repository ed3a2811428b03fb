"""Which model a ModelDeployment serves, and what makes another revision of it."""

from datetime import UTC, datetime
from typing import Any

import pytest

from tests.unit.test_rollout_planning import DIGEST, OTHER, template
from tunesmith_api.conditions import DeploymentReason
from tunesmith_api.modeldeployment import ModelDeploymentSpec
from tunesmith_api.modelversion import ModelVersion
from tunesmith_api.revision import RevisionTemplate
from tunesmith_api.rollout import Rollout
from tunesmith_operator.planning.revisions import plan_digest, revision_digest
from tunesmith_operator.planning.sources import SourceObjection, resolve

BEFORE_CONFIRMING = "sha256:ffa2dd98bf1b55c8afab65f036d6a07732f9e826b84bead3bc7563ba0a5ab991"


def test_a_revision_is_what_its_pods_are_made_from() -> None:
    first = revision_digest(template())
    # As it was before access and conversationLog: a field that is not used changes no revision.
    assert first == "sha256:dab597d676751fb85d2ecac6a5afc19b4e5d44608e043f5e55187a8d58187a1f"
    assert revision_digest(template(version="renamed")) == first
    assert revision_digest(template(engine={"type": "LlamaCpp"})) == first, "a default, spelled out"
    assert revision_digest(template(engine={"args": ["-c", "1"]})) != first
    assert revision_digest(template(model={"uri": "s3://models/v1/", "digest": OTHER})) != first
    keys = [{"apiKeySecretRef": {"name": "keys", "key": key}} for key in ("a", "b")]
    locked = [revision_digest(template(access=access)) for access in keys]
    logged = revision_digest(template(conversationLog={"uri": "s3://logs/"}))
    assert len({first, logged, *locked}) == 4, "pods mount other Secrets, or write elsewhere"
    spelled_out = {"uri": "s3://logs/", "flushSeconds": 60}
    assert revision_digest(template(conversationLog=spelled_out)) == logged


def test_all_that_pods_are_made_from_reaches_the_revision() -> None:
    asked = {
        "source": {"uri": "s3://models/x/", "digest": OTHER},
        "access": {"apiKeySecretRef": {"name": "keys", "key": "k"}},
        "conversationLog": {"uri": "s3://logs/"},
        "s3": {"region": "eu"},
        "engine": {"args": ["-c", "1"]},
    }
    spec = ModelDeploymentSpec.model_validate(asked)
    got = resolve(spec, [])
    assert isinstance(got, RevisionTemplate)
    assert (got.access, got.conversation_log) == (spec.access, spec.conversation_log)
    assert (got.s3, got.engine, got.delivery) == (spec.s3, spec.engine, spec.delivery)


def test_a_plan_is_what_a_canary_is_judged_by() -> None:
    plan = plan_digest(Rollout())
    assert plan_digest(Rollout.model_validate({"approval": "Manual"})) == plan
    assert plan_digest(Rollout.model_validate({"rollback": {"automatic": False}})) == plan
    assert plan_digest(Rollout.model_validate({"readyTimeoutSeconds": 60})) != plan
    assert plan_digest(Rollout.model_validate({"analysis": {"confirmSeconds": 2}})) != plan
    # Of before there was confirmSeconds: a rejection under that plan is still one.
    assert plan == BEFORE_CONFIRMING
    assert plan_digest(Rollout.model_validate({"steps": [{"weight": 1}]})) != plan


def version(name: str, tags: list[str], artifact: str = "GGUF", **more: Any) -> ModelVersion:
    files = {"format": artifact, "uri": "s3://models/v/", "digest": DIGEST, "sizeBytes": 1}
    spec = {"model": "m", "version": name, "tags": tags, "artifacts": [files], **more}
    created = datetime(2026, 1, int(name), tzinfo=UTC)
    meta = {"name": f"m-v{name}", "creationTimestamp": created}
    return ModelVersion.model_validate({"metadata": meta, "spec": spec})


VERSIONS = [version("1", ["prod"]), version("2", ["prod"]), version("3", []), version("4", [], "X")]
VLLM = {"engine": {"type": "VLLM"}}
SOURCES = [
    pytest.param({"modelVersion": "m-v3"}, {}, "m-v3", id="by name"),
    pytest.param({"model": "m", "channel": "prod"}, {}, "m-v2", id="the newest of a channel"),
    pytest.param({"uri": "s3://models/x/", "digest": OTHER}, {}, "", id="by digest"),
    pytest.param({"modelVersion": "m-v9"}, {}, DeploymentReason.VERSION_NOT_FOUND, id="unknown"),
    pytest.param(
        {"model": "m", "channel": "beta"}, {}, DeploymentReason.VERSION_NOT_FOUND, id="none so"
    ),
    pytest.param(
        {"modelVersion": "m-v3"}, VLLM, DeploymentReason.ARTIFACT_NOT_FOUND, id="GGUF for VLLM"
    ),
]


@pytest.mark.parametrize(("source", "more", "found"), SOURCES)
def test_a_source_is_resolved(source: Any, more: Any, found: str) -> None:
    spec = ModelDeploymentSpec.model_validate({"source": source, **more})
    got = resolve(spec, VERSIONS)
    if isinstance(got, SourceObjection):
        assert got.reason == found
    else:
        assert got.version == found


def test_ollama_takes_the_artifact_with_a_modelfile_first() -> None:
    spec = {"source": {"modelVersion": "m-v5"}, "engine": {"type": "Ollama"}}
    files = [
        {"format": form, "uri": f"s3://models/{form}/", "digest": DIGEST, "sizeBytes": 1}
        for form in ("GGUF", "Ollama")
    ]
    for artifacts, expected in ((files, "s3://models/Ollama/"), (files[:1], "s3://models/GGUF/")):
        found = resolve(
            ModelDeploymentSpec.model_validate(spec), [version("5", [], artifacts=artifacts)]
        )
        assert isinstance(found, RevisionTemplate)
        assert found.model.uri == expected


def test_of_versions_made_in_one_second_the_higher_number_is_newer() -> None:
    spec = ModelDeploymentSpec.model_validate({"source": {"model": "m", "channel": "prod"}})
    files = {"format": "GGUF", "uri": "s3://models/v/", "digest": DIGEST, "sizeBytes": 1}

    def made(name: str, second: int) -> ModelVersion:
        created = datetime(2026, 1, 1, 0, 0, second, tzinfo=UTC)
        meta = {"name": f"m-v{name}", "creationTimestamp": created}
        asked = {"model": "m", "version": name, "tags": ["prod"], "artifacts": [files]}
        return ModelVersion.model_validate({"metadata": meta, "spec": asked})

    def newest(*versions: ModelVersion) -> str:
        found = resolve(spec, versions)
        assert isinstance(found, RevisionTemplate)
        return found.version

    assert newest(made("9", 0), made("10", 0)) == "m-v10"
    assert newest(made("1.10", 0), made("1.9", 0), made("1.9.9", 0)) == "m-v1.10"
    assert newest(made("2026-b2", 0), made("2026-b10", 0)) == "m-v2026-b10"
    assert newest(made("10", 0), made("hotfix", 1)) == "m-vhotfix", "what was made last"


def test_versions_that_cannot_be_read_are_named_where_one_is_missed() -> None:
    spec = ModelDeploymentSpec.model_validate({"source": {"model": "m", "channel": "prod"}})
    found = resolve(spec, [], ["ModelVersion m-v1: spec.x: no"])
    assert isinstance(found, SourceObjection)
    assert "m-v1: spec.x: no" in found.message
    assert isinstance(resolve(spec, VERSIONS, ["ModelVersion m-v1: spec.x: no"]), RevisionTemplate)


def test_an_adapter_must_say_what_it_was_trained_for() -> None:
    adapter = version("5", [], "Adapter")
    spec = ModelDeploymentSpec.model_validate(
        {"source": {"modelVersion": "m-v5"}, "delivery": "Adapter", **VLLM}
    )
    got = resolve(spec, [adapter])
    assert isinstance(got, SourceObjection)
    assert got.reason is DeploymentReason.BASE_MODEL_UNKNOWN


@pytest.mark.parametrize(
    ("others", "words"),
    [
        pytest.param(["Merged", "GGUF"], "Set spec.delivery Merged: the", id="merged as well"),
        pytest.param(["GGUF"], "Merged and spec.engine.type LlamaCpp", id="only for llama.cpp"),
        pytest.param([], "Merged or GGUF in output.artifacts", id="nothing else"),
    ],
)
def test_an_adapter_with_tokens_of_its_own_is_not_served_on_shared_pods(
    others: list[str], words: str
) -> None:
    def files(form: str, **more: Any) -> dict[str, Any]:
        known = {"uri": f"s3://models/{form}/", "digest": DIGEST, "sizeBytes": 1}
        return {"format": form, **known, **more}

    made = [files("Adapter", addedTokens=3), *(files(form) for form in others)]
    extended = version("5", [], artifacts=made, baseModel={"uri": "hf://org/base"})
    asked = {"source": {"modelVersion": "m-v5"}, "delivery": "Adapter", **VLLM}
    got = resolve(ModelDeploymentSpec.model_validate(asked), [extended])
    assert isinstance(got, SourceObjection)
    assert got.reason is DeploymentReason.ADAPTER_ADDS_TOKENS
    assert "ModelVersion m-v5 brings 3 tokens" in got.message
    assert words in got.message
    if "Merged" in others:
        merged = ModelDeploymentSpec.model_validate(asked | {"delivery": "Merged"})
        whole = resolve(merged, [extended])
        assert isinstance(whole, RevisionTemplate)
        assert whole.model.uri == "s3://models/Merged/"
