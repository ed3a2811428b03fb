"""The cache: what events and lists tell, grouped by owner, phantoms removed."""

import pytest

from tests.unit.bodies import job, own, pod
from tunesmith_operator.kube.cache import Cache
from tunesmith_operator.kube.known import Key

KEY = Key("FineTuneJob", "default", "a")


def full() -> Cache:
    cache = Cache()
    cache.saw("FineTuneJob", own())
    cache.saw("Job", job())
    cache.saw("Pod", pod())
    return cache


def test_a_new_object_is_its_own_turn_and_a_known_version_is_nobodys() -> None:
    cache = Cache()
    assert cache.saw("FineTuneJob", own(version=5)) == KEY
    assert cache.saw("FineTuneJob", own(version=5)) is None
    assert cache.saw("FineTuneJob", own(version=4)) is None
    assert cache.saw("FineTuneJob", own(version=6)) == KEY


def test_a_child_is_its_owners_turn() -> None:
    cache = Cache()
    cache.saw("FineTuneJob", own())
    assert cache.saw("Job", job()) == KEY
    assert cache.saw("Pod", pod()) == KEY


def test_a_child_change_that_nobody_decides_on_is_nobodys_turn() -> None:
    cache = full()
    assert cache.saw("Job", job(version=10, status={"uncountedTerminatedPods": {}})) is None


def test_children_that_come_before_their_owner_are_kept() -> None:
    cache = Cache()
    assert cache.saw("Job", job()) is None
    assert cache.saw("FineTuneJob", own()) == KEY
    assert [seen.name for seen in cache.jobs_of("u-a")] == ["a-train-1"]


def test_jobs_carry_their_pods() -> None:
    (seen,) = full().jobs_of("u-a")
    assert [p.name for p in seen.pods] == ["a-train-1-0-x"]
    assert seen.image == "trainer:1"


def test_a_job_with_our_label_that_somebody_else_controls_is_not_an_attempt() -> None:
    cache = Cache()
    cache.saw("FineTuneJob", own())
    cache.saw("Job", job(meta={"ownerReferences": []}))
    assert cache.jobs_of("u-a") == ()


def test_a_foreign_job_without_our_labels_is_not_kept() -> None:
    cache = Cache()
    assert cache.saw("Job", job(meta={"labels": {}})) is None
    assert cache.counts()["Job"] == 0


def test_a_deleted_pod_stays_known_with_its_last_words_as_long_as_its_job() -> None:
    cache = full()
    last = pod(version=9, status={"phase": "Failed", "reason": "Evicted"})
    assert cache.deleted("Pod", last) == KEY
    (gone,) = cache.jobs_of("u-a")[0].pods
    assert (gone.is_gone, gone.phase, gone.status_reason) == (True, "Failed", "Evicted")
    assert cache.stray_pods_of("u-a") == ()
    cache.deleted("Job", job(version=10))
    assert cache.counts() == {
        "FineTuneJob": 1,
        "ModelVersion": 0,
        "ModelDeployment": 0,
        "Job": 0,
        "Pod": 0,
    }


def test_a_pod_whose_job_is_gone_is_a_stray_until_it_is_gone_too() -> None:
    cache = full()
    cache.deleted("Job", job(version=10))
    assert [p.name for p in cache.stray_pods_of("u-a")] == ["a-train-1-0-x"]
    cache.deleted("Pod", pod(version=11))
    assert cache.stray_pods_of("u-a") == ()


def test_a_pod_of_a_job_that_was_taken_from_its_owner_is_a_stray() -> None:
    cache = full()
    assert cache.saw("Job", job(version=10, meta={"ownerReferences": None})) == KEY
    assert cache.jobs_of("u-a") == ()
    assert [p.name for p in cache.stray_pods_of("u-a")] == ["a-train-1-0-x"]


def test_a_pod_that_outlives_its_job_as_an_orphan_is_a_stray() -> None:
    cache = full()
    labels = {"tunesmith.dev/job-uid": "u-a", "batch.kubernetes.io/controller-uid": "j-1"}
    cache.saw("Pod", pod(version=10, meta={"labels": labels, "ownerReferences": None}))
    cache.deleted("Job", job(version=11))
    assert [p.name for p in cache.stray_pods_of("u-a")] == ["a-train-1-0-x"]


@pytest.mark.parametrize(
    "labels",
    [
        pytest.param({}, id="without labels"),
        pytest.param({"tunesmith.dev/job-uid": "u-a"}, id="without stage and attempt"),
        pytest.param(
            {
                "tunesmith.dev/job-uid": "u-b",
                "tunesmith.dev/stage": "train",
                "tunesmith.dev/attempt": "1",
            },
            id="with another owner's",
        ),
    ],
)
def test_a_job_whose_labels_were_taken_off_is_not_believed_to_be_as_it_was(
    labels: dict[str, str],
) -> None:
    cache = full()
    cache.saw("Job", job(version=10, meta={"labels": labels}))
    assert cache.jobs_of("u-a") == ()
    assert [p.name for p in cache.stray_pods_of("u-a")] == ["a-train-1-0-x"]


def test_a_late_answer_does_not_bring_a_deleted_object_back() -> None:
    cache = full()
    cache.deleted("Job", job(version=10))
    assert cache.saw("Job", job(version=9)) is None
    assert cache.jobs_of("u-a") == ()


def test_an_object_made_again_under_its_name_replaces_the_old_one() -> None:
    cache = full()
    assert cache.saw("FineTuneJob", own(uid="u-b", version=20)) == KEY
    known = cache.own("FineTuneJob", "default", "a")
    assert known is not None
    assert known.uid == "u-b"
    assert len(cache.all_own("FineTuneJob")) == 1


def test_a_late_event_of_the_old_namesake_does_not_replace_the_new_one() -> None:
    cache = Cache()
    cache.saw("FineTuneJob", own(uid="u-b", version=20))
    cache.saw("FineTuneJob", own(uid="u-a", version=5))
    known = cache.own("FineTuneJob", "default", "a")
    assert known is not None
    assert known.uid == "u-b"


def test_a_list_removes_phantoms_and_says_whose_turn_it_is() -> None:
    cache = full()
    assert cache.drop_missing("Job", {"j-2"}, listed_from=100) == {KEY}
    assert cache.jobs_of("u-a") == ()


def test_a_list_does_not_remove_what_is_newer_than_it() -> None:
    cache = full()
    cache.saw("Job", job("a-train-2", "j-2", version=200))
    assert cache.drop_missing("Job", {"j-1"}, listed_from=100) == set()
    assert [seen.name for seen in cache.jobs_of("u-a")] == ["a-train-1", "a-train-2"]


def test_a_list_leaves_pods_that_are_known_to_be_gone() -> None:
    cache = full()
    cache.deleted("Pod", pod(version=9))
    assert cache.drop_missing("Pod", set(), listed_from=100) == set()
    assert len(cache.jobs_of("u-a")[0].pods) == 1


def test_a_list_of_one_kind_leaves_the_others_alone() -> None:
    cache = full()
    assert cache.drop_missing("ModelVersion", set(), listed_from=100) == set()
    assert cache.counts()["FineTuneJob"] == 1


def test_deleting_the_owner_forgets_it_and_is_its_turn() -> None:
    cache = full()
    assert cache.deleted("FineTuneJob", own(version=9)) == KEY
    assert cache.own("FineTuneJob", "default", "a") is None


def test_everything_that_is_deleted_leaves_nothing_behind() -> None:
    cache = full()
    cache.deleted("FineTuneJob", own(version=9))
    cache.deleted("Pod", pod(version=10))
    cache.deleted("Job", job(version=11))
    assert sum(cache.counts().values()) == 0
    assert cache._by_owner == {}


def test_versions_are_found_by_model() -> None:
    cache = Cache()
    for number in (2, 1):
        spec = {"model": "m", "version": str(number)}
        body = own(f"m-{number}", f"v-{number}", kind="ModelVersion") | {"spec": spec}
        cache.saw("ModelVersion", body)
    assert [v.version for v in cache.versions_of("default", "m")] == ["1", "2"]
    assert cache.versions_of("other", "m") == ()
    cache.deleted("ModelVersion", own("m-1", "v-1", 9, kind="ModelVersion"))
    assert [v.version for v in cache.versions_of("default", "m")] == ["2"]
