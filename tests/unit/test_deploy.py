"""The throw-away cluster's own decisions: what runs when, what is ours to remove, what changed."""

import threading
import time
from pathlib import Path

import pytest

from deploy import images, steps
from deploy.cluster import choose_cluster
from deploy.kubectl import fill
from deploy.locks import locked
from deploy.native import leftovers, node, processes
from deploy.native.binaries import ENGINES, GATEWAY, METRICS, RECIPES
from deploy.native.host import Host
from deploy.settings import Settings, read_settings
from deploy.shell import Log, StepError
from deploy.steps import State, Step


def nothing(log: Log) -> None:
    log.say("done")


def failing(log: Log) -> None:
    raise StepError("no disk", "buy one")


def run(tmp_path: Path, *wanted: Step) -> steps.Outcome:
    return steps.run_steps(wanted, tmp_path, lambda progress: None)


def states(outcome: steps.Outcome) -> dict[str, State]:
    return {one.step.name: one.state for one in outcome.progress}


def test_steps_that_need_nothing_of_each_other_run_side_by_side(tmp_path: Path) -> None:
    meet = threading.Barrier(2, timeout=60)

    def work(log: Log) -> None:
        meet.wait()

    assert not run(tmp_path, Step("a", work), Step("b", work)).failed


def test_a_step_waits_for_what_it_needs(tmp_path: Path) -> None:
    order: list[str] = []
    first = Step("first", lambda log: order.append("first"))
    second = Step("second", lambda log: order.append("second"), ("first",))
    run(tmp_path, first, second)
    assert order == ["first", "second"]


def test_after_a_failure_only_what_needs_it_is_skipped(tmp_path: Path) -> None:
    outcome = run(
        tmp_path,
        Step("broken", failing),
        Step("needs it", nothing, ("broken",)),
        Step("needs that", nothing, ("needs it",)),
        Step("needs nothing", nothing),
    )
    assert states(outcome) == {
        "broken": State.FAILED,
        "needs it": State.SKIPPED,
        "needs that": State.SKIPPED,
        "needs nothing": State.DONE,
    }
    assert [(one.error, one.hint) for one in outcome.failed] == [("no disk", "buy one")]


def test_a_mistake_in_a_step_is_a_failure_with_a_traceback_in_its_log(tmp_path: Path) -> None:
    def mistaken(log: Log) -> None:
        raise KeyError("oops")

    outcome = run(tmp_path, Step("mistaken", mistaken))
    assert outcome.failed[0].error == "KeyError: 'oops'"
    assert "Traceback" in (tmp_path / "mistaken.log").read_text()


def test_a_step_that_needs_an_unknown_one_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere"):
        run(tmp_path, Step("a", nothing, ("nowhere",)))


def test_a_failing_program_says_how_it_ended_and_its_last_words(tmp_path: Path) -> None:
    log = Log(tmp_path / "log")
    with pytest.raises(StepError, match="exited with 3\nlast words"):
        log.run(["sh", "-c", "echo last words >&2; exit 3"])
    assert "last words" in log.path.read_text()


def test_a_missing_program_is_named_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(StepError, match="no-such-program is not installed") as caught:
        Log(tmp_path / "log").run(["no-such-program"], hint="apt-get install it")
    assert caught.value.hint == "apt-get install it"


SAVED = r"""*nat
:PREROUTING ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:DOCKER - [0:0]
:CNI-aaaa - [0:0]
:CNI-bbbb - [0:0]
:KUBE-SERVICES - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A PREROUTING -j DOCKER
-A POSTROUTING -s 10.88.0.2/32 -m comment --comment "name: \"tunesmith\" id: \"1\"" -j CNI-aaaa
-A POSTROUTING -s 10.99.0.2/32 -m comment --comment "name: \"podman\" id: \"2\"" -j CNI-bbbb
-A CNI-aaaa -d 10.88.0.0/24 -m comment --comment "name: \"tunesmith\" id: \"1\"" -j ACCEPT
-A KUBE-SERVICES -d 10.96.0.1/32 -j RETURN
COMMIT""".splitlines()


def test_only_our_rules_and_chains_are_removed() -> None:
    batch = leftovers.removal_batch("nat", SAVED).splitlines()
    assert batch[0] == "*nat"
    assert batch[-1] == "COMMIT"
    assert {"-F CNI-aaaa", "-X CNI-aaaa", "-F KUBE-SERVICES", "-X KUBE-SERVICES"} < set(batch)
    assert any(line.startswith("-D POSTROUTING -s 10.88.0.2/32") for line in batch)
    assert not any("DOCKER" in line or "CNI-bbbb" in line for line in batch)


def test_a_table_without_our_rules_is_left_alone() -> None:
    assert leftovers.removal_batch("nat", [":PREROUTING ACCEPT [0:0]", "-A PREROUTING -j X"]) == ""


def test_a_program_that_names_another_state_folder_is_not_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for pid, words in {
        10: ["/bin/kubelet", "--config=/var/state/kubelet.json"],
        11: ["/bin/kubelet", "--config=/var/state-of-others/kubelet.json"],
        12: ["tail", "-f", "/var/state/log/kubelet.log"],
    }.items():
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "cmdline").write_text("\0".join(words) + "\0")
    monkeypatch.setattr(processes, "PROC", tmp_path)
    assert [p.pid for p in processes.find(Path("/var/state"))] == [10]


def test_a_container_is_ours_by_its_root_file_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = "30 1 0:50 / {at} rw - overlay overlay rw,upperdir={state}/ctr/fs"
    for pid, at, state in [
        (10, "/", "/s"),
        (11, "/", "/else"),
        (12, "/s/ctr/rootfs", "/s"),
        (13, "/", "/images"),
        (14, "/", "/images-of-others"),
    ]:
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "mountinfo").write_text(line.format(at=at, state=state) + "\n")
    monkeypatch.setattr(processes, "PROC", tmp_path)
    assert sorted(processes.find_containers(Path("/s"), Path("/images"))) == [10, 13]


def checkout(folder: Path) -> Path:
    (folder / "app" / "__pycache__").mkdir(parents=True)
    (folder / "app" / "main.py").write_text("1")
    (folder / "app" / "__pycache__" / "main.pyc").write_text("x")
    (folder / "notes.txt").write_text("x")
    dockerfile = folder / "Dockerfile"
    dockerfile.write_text("FROM x AS code\nCOPY app /app\nFROM y\nCOPY --from=code /app /app\n")
    return dockerfile


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        pytest.param("app/main.py", True, id="a copied file changes the tag"),
        pytest.param("Dockerfile", True, id="the Dockerfile changes the tag"),
        pytest.param("notes.txt", False, id="a file that is not copied does not"),
        pytest.param("app/__pycache__/main.pyc", False, id="bytecode does not"),
    ],
)
def test_an_image_tag_follows_its_content(tmp_path: Path, file: str, changes: bool) -> None:
    dockerfile = checkout(tmp_path)
    before = images.content_digest(dockerfile)
    path = tmp_path / file
    path.write_text(path.read_text() + "\n# changed\n")
    assert (images.content_digest(dockerfile) != before) is changes


@pytest.mark.parametrize(("may", "flag"), [(True, "false"), (False, "true")])
def test_containerd_leaves_oom_scores_alone_where_it_must(
    tmp_path: Path, may: bool, flag: str
) -> None:
    host = Host(cgroup_version=1, can_raise_limits=may, cni_folder=Path("/cni"))
    text = node.write_containerd(tmp_path, tmp_path / "images", host, "pause").read_text()
    assert f"restrict_oom_score_adj = {flag}" in text
    limits = [f for f in node.proxy_flags(Path("k"), host) if f.startswith("--conntrack")]
    assert bool(limits) is not may


def test_a_value_that_is_not_given_is_an_error() -> None:
    assert fill("image: ${IMAGE}", {"IMAGE": "x"}) == "image: x"
    with pytest.raises(KeyError):
        fill("image: ${IMAGE}", {})


def test_every_binary_has_a_folder_of_its_own_in_the_cache() -> None:
    keys = [recipe.key for recipe in (*RECIPES, *GATEWAY, *METRICS, *ENGINES)]
    assert len(set(keys)) == len(keys)


def test_a_wheel_is_pinned_in_the_version_that_its_recipe_names() -> None:
    wheels = [recipe for recipe in GATEWAY if recipe.wheel]
    assert wheels
    for recipe in wheels:
        assert recipe.pins.read_text().startswith(f"{recipe.package}=={recipe.version} ")


def test_an_unknown_kind_of_cluster_is_refused(tmp_path: Path) -> None:
    settings = Settings(cache=tmp_path, state=tmp_path, cluster="minikube", registry="")
    with pytest.raises(StepError, match="CLUSTER=minikube is not one of auto, native"):
        choose_cluster(settings)


@pytest.mark.parametrize(
    ("kind", "programs"),
    [("kind", ["docker", "helm", "kind", "kubectl"]), ("current", ["docker", "helm", "kubectl"])],
)
def test_a_missing_tool_is_named_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, programs: list[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    settings = Settings(cache=tmp_path, state=tmp_path, cluster=kind, registry="")
    with pytest.raises(StepError, match=f"{kind}: not installed: docker") as refused:
        choose_cluster(settings)
    lines = [line.split(":", 1) for line in refused.value.hint.splitlines()[1:]]
    assert [name.strip() for name, _ in lines] == programs
    for name, command in lines:
        assert name.strip() in command
        assert "{" not in command


def test_a_state_folder_too_long_for_sockets_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNESMITH_STATE", "/" + "x" * 100)
    with pytest.raises(ValueError, match="too long for unix sockets"):
        read_settings()


def test_the_second_to_want_a_lock_says_so_and_waits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, entered = tmp_path / "lock", threading.Event()

    def second() -> None:
        with locked(path, "waiting"):
            entered.set()

    said = ""
    with locked(path):
        thread = threading.Thread(target=second)
        thread.start()
        end = time.monotonic() + 60
        while "waiting" not in said and time.monotonic() < end:
            assert not entered.wait(0.05)
            said += capsys.readouterr().out
    assert entered.wait(60)
    thread.join()
    assert "waiting" in said


def test_those_who_share_a_lock_keep_out_who_wants_it_alone(tmp_path: Path) -> None:
    path, entered = tmp_path / "lock", threading.Event()

    def alone() -> None:
        with locked(path):
            entered.set()

    with locked(path, shared=True), locked(path, shared=True):
        thread = threading.Thread(target=alone)
        thread.start()
        assert not entered.wait(0.2)
    assert entered.wait(60)
    thread.join()


def test_an_old_clusters_files_go_aside_at_once_and_for_good_later(tmp_path: Path) -> None:
    state, log = tmp_path / "cache" / "native", Log(tmp_path / "log")
    state.parent.mkdir()
    leftovers.set_aside(state, log)
    for content in ("first", "second"):
        state.mkdir()
        (state / "images").write_text(content)
        leftovers.set_aside(state, log)
        assert not state.exists()
    state.mkdir()
    assert len(list(state.parent.iterdir())) == 3
    leftovers.remove_set_aside(state)
    assert list(state.parent.iterdir()) == [state]


def test_images_are_kept_until_the_machine_starts_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, boot, log = tmp_path / "containerd", tmp_path / "boot_id", Log(tmp_path / "log")
    monkeypatch.setattr(leftovers, "BOOT_ID", boot)
    folder.mkdir()
    (folder / "of-nobody-knows-when").touch()
    boot.write_text("first\n")
    leftovers.set_aside_of_other_boot(folder, log)
    assert [file.name for file in folder.iterdir()] == ["boot_id"]
    (folder / "layer").touch()
    leftovers.set_aside_of_other_boot(folder, log)
    assert (folder / "layer").exists()
    boot.write_text("second\n")
    leftovers.set_aside_of_other_boot(folder, log)
    assert [file.name for file in folder.iterdir()] == ["boot_id"]
