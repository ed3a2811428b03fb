"""Who uses a ModelVersion: what the cache knows, whom it tells, and what the status says."""

from datetime import UTC, datetime, timedelta

import pytest

from tests.unit.bodies import own
from tunesmith_api.conditions import VersionCondition
from tunesmith_api.meta import ObjectMeta
from tunesmith_api.modelversion import ModelVersion, UseRole, VersionUser
from tunesmith_operator.kube.cache import Cache
from tunesmith_operator.kube.kinds import Object
from tunesmith_operator.kube.known import Key
from tunesmith_operator.planning.conditions import find
from tunesmith_operator.planning.versions import describe

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
DIGEST = "sha256:" + "a" * 64
STABLE, CANARY, SOURCE = UseRole.STABLE, UseRole.CANARY, UseRole.SOURCE


def deployment(version: int = 1, source: str = "", **roles: str) -> Object:
    """Give a ModelDeployment that names a version and serves others."""
    spec = {"source": {"modelVersion": source} if source else {"model": "m", "channel": "c"}}
    status = {role: {"version": name} for role, name in roles.items()}
    return own("chat", "u-chat", version, "ModelDeployment", spec=spec, status=status)


@pytest.fixture
def told() -> list[Key]:
    return []


@pytest.fixture
def cache(told: list[Key]) -> Cache:
    return Cache(told.append)


def keys(*names: str) -> list[Key]:
    return [Key("ModelVersion", "default", name) for name in names]


def test_a_version_hears_of_its_use_when_it_begins_changes_and_ends(
    cache: Cache, told: list[Key]
) -> None:
    cache.saw("ModelDeployment", deployment(1, source="v2", stable="v1"))
    assert told == keys("v1", "v2")
    assert cache.uses.users("default", "v1") == [VersionUser(name="chat", roles=(STABLE,))]
    told.clear()
    cache.saw("ModelDeployment", deployment(2, source="v2", stable="v1", canary="v2"))
    assert told == keys("v2"), "nothing has changed for v1"
    assert cache.uses.users("default", "v2") == [VersionUser(name="chat", roles=(SOURCE, CANARY))]
    told.clear()
    cache.deleted("ModelDeployment", deployment(3, source="v2", stable="v1", canary="v2"))
    assert told == keys("v1", "v2")
    assert cache.uses.users("default", "v2") == []


def test_a_change_that_is_no_change_of_use_is_told_to_nobody(cache: Cache, told: list[Key]) -> None:
    cache.saw("ModelDeployment", deployment(1, stable="v1"))
    told.clear()
    cache.saw("ModelDeployment", deployment(2, stable="v1"))
    assert told == []


def test_a_deployment_that_only_a_list_shows_to_be_gone_uses_nothing_any_more(
    cache: Cache, told: list[Key]
) -> None:
    cache.saw("ModelDeployment", deployment(1, stable="v1"))
    told.clear()
    cache.drop_missing("ModelDeployment", [], listed_from=9)
    assert told == keys("v1")
    assert cache.uses.users("default", "v1") == []


def test_one_that_was_made_again_under_its_name_counts_once(cache: Cache) -> None:
    cache.saw("ModelDeployment", deployment(1, stable="v1"))
    again = deployment(5, stable="v2")
    again["metadata"]["uid"] = "u-other"
    cache.saw("ModelDeployment", again)
    assert cache.uses.users("default", "v1") == []
    assert cache.uses.users("default", "v2") == [VersionUser(name="chat", roles=(STABLE,))]


def test_versions_of_other_namespaces_are_not_meant(cache: Cache) -> None:
    cache.saw("ModelDeployment", deployment(1, stable="v1"))
    assert cache.uses.users("other", "v1") == []


def version() -> ModelVersion:
    artifact = {"format": "GGUF", "uri": "s3://bucket/m/", "digest": DIGEST, "sizeBytes": 1}
    return ModelVersion.model_validate(
        {
            "metadata": ObjectMeta(name="v1", generation=1),
            "spec": {"model": "m", "version": "1", "artifacts": [artifact]},
        }
    )


def users(number: int) -> list[VersionUser]:
    return [VersionUser(name=f"chat-{n:03}", roles=(STABLE,)) for n in range(number)]


@pytest.mark.parametrize(
    ("by", "status", "message"),
    [
        pytest.param([], "False", "No ModelDeployment serves it or names it", id="nobody"),
        pytest.param(
            [VersionUser(name="chat", roles=(SOURCE, CANARY))],
            "True",
            "Used by ModelDeployment chat (Source, Canary)",
            id="one, in two ways",
        ),
        pytest.param(
            users(7),
            "True",
            "Used by ModelDeployment chat-000 (Stable), chat-001 (Stable), chat-002 (Stable),"
            " chat-003 (Stable), chat-004 (Stable) and 2 more",
            id="many are counted",
        ),
    ],
)
def test_the_condition_says_who_uses_it(by: list[VersionUser], status: str, message: str) -> None:
    said = describe(version(), by, NOW)
    found = find(said.conditions, VersionCondition.IN_USE)
    assert found is not None
    assert (found.status, found.message) == (status, message)
    assert said.used_by == tuple(by)


def test_the_list_of_users_is_bounded() -> None:
    said = describe(version(), users(100), NOW)
    assert [user.name for user in said.used_by] == [f"chat-{n:03}" for n in range(64)]


def test_nothing_changes_while_nobody_else_uses_it() -> None:
    first = version().model_copy(update={"status": describe(version(), users(1), NOW)})
    assert describe(first, users(1), NOW + timedelta(hours=1)) == first.status
