"""Versions that training makes: whether, of what, and to whom they are offered."""

from typing import Any

import pytest

from tests.simulation.training_parts import DEPLOYMENTS, IMAGE_DIGEST, SPEC, Faults
from tests.simulation.training_play import OFFERED, failed_because, play
from tests.simulation.world import World
from tunesmith_api.conditions import ConditionType
from tunesmith_operator.planning.conditions import find
from tunesmith_operator.planning.observed import SeenArtifact, SeenVersion


@pytest.mark.parametrize("spec", [SPEC, OFFERED], ids=["for nobody", "for a deployment"])
def test_a_worse_model_gets_no_version(spec: dict[str, Any]) -> None:
    world = World(seed=10, spec=spec, faults=Faults(worse_than_base=1.0))
    world.deployment = DEPLOYMENTS[3]
    play(world)
    assert failed_because(world) == "GatesFailed"
    assert world.versions == world.made == []
    assert world.job is not None
    assert find(world.job.status.conditions, ConditionType.OFFERED) is None
    assert "Offered" not in {e.reason for e in world.events}


def test_a_version_names_the_very_image_it_was_trained_with() -> None:
    world = play(World(seed=1))
    (made,) = world.made
    assert made.lineage is not None
    assert made.lineage.trainer_image == f"trainer:1@{IMAGE_DIGEST}"


def test_a_version_tells_what_its_rows_were() -> None:
    (made,) = play(World(seed=1)).made
    assert made.lineage is not None
    assert (made.lineage.prompt_version, made.lineage.synthetic_rows) == ("v2", 7)
    assert made.lineage.template_date == "2024-07-26"


def test_an_image_without_a_registrys_digest_keeps_its_tag() -> None:
    world = play(World(seed=1, image_id=IMAGE_DIGEST))
    (made,) = world.made
    assert made.lineage is not None
    assert made.lineage.trainer_image == "trainer:1"


def test_a_version_names_the_one_it_was_trained_from() -> None:
    uri = "s3://bucket/models/merged/attempt-2"
    world = World(seed=1, spec={**SPEC, "model": {"uri": uri}})
    digest = "sha256:" + "0" * 64
    merged = (SeenArtifact("Merged", f"{uri}/", digest),)
    world.versions = [
        SeenVersion("demo-v1", "demo", "1", "another-job", artifacts=merged),
        SeenVersion("demo-v2", "demo", "2", "a-third-job"),
    ]
    while not world.made:
        world.turn()
    (made,) = world.made
    assert made.lineage is not None
    assert (made.version, made.lineage.parent) == ("3", "demo-v1")


def test_a_version_is_offered_by_the_tag_of_the_channel_that_the_deployment_follows() -> None:
    world = World(seed=14, spec=OFFERED)
    world.deployment = DEPLOYMENTS[3]
    play(world)
    (made,) = world.made
    assert made.tags == ("stable",)
    assert world.transcript[-1] == "MakeVersion "
    assert [(e.type, e.reason) for e in world.events[-2:]] == [
        ("Normal", "Offered"),
        ("Normal", "Complete"),
    ]


def test_an_operator_that_died_after_the_version_says_what_was_offered_not_what_is_followed() -> (
    None
):
    world = World(seed=15, spec=OFFERED)
    world.deployment = DEPLOYMENTS[3]
    while not world.made:
        before = world.job
        world.turn(seconds=1)
    world.job = before  # the status was never written
    world.deployment = DEPLOYMENTS[4]
    play(world)
    assert world.job is not None
    said = find(world.job.status.conditions, ConditionType.OFFERED)
    assert said is not None
    assert (said.status, said.reason) == ("True", "ChannelTagged")
    assert "the tag stable" in said.message
    assert len(world.made) == 1


def test_a_version_that_nobody_took_stays_so_when_the_deployment_appears_too_late() -> None:
    world = World(seed=16, spec=OFFERED)
    while not world.made:
        before = world.job
        world.turn(seconds=1)
    world.job = before
    world.deployment = DEPLOYMENTS[3]
    play(world)
    assert world.job is not None
    said = find(world.job.status.conditions, ConditionType.OFFERED)
    assert said is not None
    assert (said.status, said.reason) == ("False", "OfferMissed")
    assert world.made[0].tags == ()


@pytest.mark.parametrize("seed", range(20))
def test_what_is_offered_is_what_was_followed_whoever_dies_and_edits(seed: int) -> None:
    faults = Faults(
        evict=0.02, operator_dies=0.2, answer_lost=0.1, worse_than_base=0.1, deployment_edited=0.3
    )
    world = World(seed=seed, spec=OFFERED, faults=faults)
    for _ in range(60):
        world.turn()  # make_version and check_offer hold it
    world.faults = Faults()
    play(world)
