"""The converter from pydantic to structural schemas: each trap by itself."""

from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, Field

from tests.unit.schemas import walk
from tunesmith_api.attempts import AttemptReason
from tunesmith_api.conditions import ConditionType, DeploymentCondition, DeploymentReason, Reason
from tunesmith_api.crd import UnknownKeywordError, definitions, structural_schema
from tunesmith_api.deploymentstatus import RollbackReason
from tunesmith_api.meanings import (
    ATTEMPT_MEANINGS,
    CONDITION_MEANINGS,
    DEPLOYMENT_CONDITION_MEANINGS,
    DEPLOYMENT_REASON_MEANINGS,
    REASON_MEANINGS,
    ROLLBACK_MEANINGS,
    USER_ERROR_MEANINGS,
)
from tunesmith_api.result import UserErrorReason


class Inner(BaseModel):
    word: Annotated[str, Field(max_length=9)] = "x"


class Outer(BaseModel):
    maybe: Inner | None = None
    kind: Literal["A"] = "A"
    count: Annotated[int, Field(ge=1)] = 1


class Unbounded(BaseModel):
    text: str


class Exclusive(BaseModel):
    number: Annotated[int, Field(gt=0)]


class EitherOr(BaseModel):
    value: Annotated[str, Field(max_length=1)] | int


def test_references_are_inlined_and_null_is_left_out() -> None:
    properties = structural_schema(Outer)["properties"]
    assert properties["maybe"]["type"] == "object"
    assert properties["maybe"]["properties"]["word"]["maxLength"] == 9
    assert "default" not in properties["maybe"]
    assert properties["kind"]["enum"] == ["A"]


@pytest.mark.parametrize("model", [Unbounded, Exclusive, EitherOr])
def test_what_a_crd_cannot_say_is_an_error(model: type[BaseModel]) -> None:
    with pytest.raises(UnknownKeywordError):
        structural_schema(model)


@pytest.mark.parametrize("name", ["finetunejobs", "modelversions", "modeldeployments"])
def test_every_field_is_described_and_bounded(name: str) -> None:
    schema = definitions()[name]["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    for path, part in walk(schema, name):
        assert "$ref" not in part
        assert "anyOf" not in part
        is_item_or_metadata = path.endswith(("[]", "*", ".metadata"))
        assert part.get("description") or is_item_or_metadata, f"{path} has no description"


def test_every_word_of_a_status_has_a_meaning() -> None:
    assert set(CONDITION_MEANINGS) == set(ConditionType)
    assert set(REASON_MEANINGS) == set(Reason)
    assert set(USER_ERROR_MEANINGS) == set(UserErrorReason)
    assert set(ATTEMPT_MEANINGS) == set(AttemptReason)
    assert set(DEPLOYMENT_CONDITION_MEANINGS) == set(DeploymentCondition)
    assert set(DEPLOYMENT_REASON_MEANINGS) == set(DeploymentReason)
    assert set(ROLLBACK_MEANINGS) == set(RollbackReason)


def test_only_a_deployment_can_be_scaled() -> None:
    versions = {name: d["spec"]["versions"][0] for name, d in definitions().items()}
    scaled = {name for name, v in versions.items() if "scale" in v["subresources"]}
    assert scaled == {"modeldeployments"}


def test_the_longest_image_and_its_digest_fit_into_the_status() -> None:
    schema = definitions()["finetunejobs"]["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    lengths = {path: part.get("maxLength") for path, part in walk(schema, "")}
    asked = lengths[".spec.compute.image"]
    kept = lengths[".status.resolved.trainerImage"]
    assert asked + len("@sha256:") + 64 <= kept
