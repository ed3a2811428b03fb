"""The clusters that use Docker: what the registry is asked, and which commands bring them up.

docker, kind and kubectl are scripts here that write down how they were called: what must hold
wherever these tests run is what is asked of them. The registry is a real one.
"""

import hashlib
import json
import shutil
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from deploy import kind
from deploy.cli import main
from deploy.cluster import choose_cluster
from deploy.current import Current
from deploy.images import answers, is_pushed
from deploy.native.apiserver import free_ports, start_program, stop_program
from deploy.native.node import write_registry
from deploy.settings import Settings
from deploy.shell import StepError
from deploy.steps import run_steps

OCI = "application/vnd.oci.image"
DOCKER = "application/vnd.docker.distribution.manifest"


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    program = shutil.which("docker-registry")
    if program is None:
        pytest.skip("needs docker-registry")
    (port,) = free_ports(1)
    config = write_registry(tmp_path, tmp_path / "images", port)
    process = start_program([program, "serve", config], tmp_path / "registry.log")
    name = f"localhost:{port}"
    try:
        deadline = time.monotonic() + 60
        while not answers(name):
            assert time.monotonic() < deadline, (tmp_path / "registry.log").read_text()
            time.sleep(0.05)
        yield name
    finally:
        stop_program(process)


def put(registry: str, path: str, body: bytes, media_type: str, method: str = "PUT") -> str:
    url = f"http://{registry.replace('localhost', '127.0.0.1')}/v2/{path}"
    request = urllib.request.Request(
        url, data=body, method=method, headers={"Content-Type": media_type}
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=30) as answer:
        return str(answer.headers.get("Location", ""))


def put_blob(registry: str, body: bytes) -> dict[str, object]:
    """Upload a blob and return what a manifest says of it."""
    digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
    where = put(registry, "x/blobs/uploads/", b"", "application/octet-stream", "POST")
    put(registry, f"{where.partition('/v2/')[2]}&digest={digest}", body, "application/octet-stream")
    return {"digest": digest, "size": len(body)}


@pytest.mark.parametrize(
    ("media_type", "config_type", "index_type"),
    [
        pytest.param(f"{OCI}.manifest.v1+json", f"{OCI}.config.v1+json", "", id="an OCI image"),
        pytest.param(
            f"{DOCKER}.v2+json",
            "application/vnd.docker.container.image.v1+json",
            "",
            id="an image of Docker's",
        ),
        pytest.param(
            f"{OCI}.manifest.v1+json",
            f"{OCI}.config.v1+json",
            f"{OCI}.index.v1+json",
            id="an index, as Docker pushes it with containerd's store of images",
        ),
        pytest.param(
            f"{DOCKER}.v2+json",
            "application/vnd.docker.container.image.v1+json",
            f"{DOCKER}.list.v2+json",
            id="a list of Docker's",
        ),
    ],
)
def test_an_image_of_any_form_is_found_in_the_registry(
    registry: str, media_type: str, config_type: str, index_type: str
) -> None:
    assert not is_pushed(f"{registry}/x:1", insecure=True)
    config = put_blob(registry, b'{"os":"linux","architecture":"amd64"}')
    manifest = {
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": {**config, "mediaType": config_type},
        "layers": [],
    }
    body = json.dumps(manifest).encode()
    digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
    if index_type:
        put(registry, f"x/manifests/{digest}", body, media_type)
        platform = {"os": "linux", "architecture": "amd64"}
        one = {"mediaType": media_type, "digest": digest, "size": len(body), "platform": platform}
        index = {"schemaVersion": 2, "mediaType": index_type, "manifests": [one]}
        body, media_type = json.dumps(index).encode(), index_type
    put(registry, "x/manifests/1", body, media_type)
    assert is_pushed(f"{registry}/x:1", insecure=True)
    assert not is_pushed(f"{registry}/x:2", insecure=True)


def test_a_registry_that_is_not_up_does_not_answer() -> None:
    (port,) = free_ports(1)
    assert not answers(f"localhost:{port}")


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a folder that is first on the path, with a file ``calls`` of how its programs ran."""
    folder = tmp_path / "programs"
    folder.mkdir()
    (folder / "calls").touch()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    for name in ("docker", "kind", "kubectl", "helm"):
        script(folder, name, "")
    return folder


def script(folder: Path, name: str, body: str) -> None:
    file = folder / name
    file.write_text(f'#!/bin/sh\necho "{name} $*" >> {folder}/calls\n{body}\n')
    file.chmod(0o755)


def calls(programs: Path, beginning: str) -> list[str]:
    lines = (programs / "calls").read_text().splitlines()
    return [line for line in lines if line.startswith(beginning)]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(cache=tmp_path / "cache", state=tmp_path, cluster="kind", registry="")


@pytest.fixture
def bring_up(
    settings: Settings, registry: str, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], None]:
    """Give what runs the steps of a kind cluster whose registry is the real one."""
    monkeypatch.setattr(kind, "PORT", int(registry.rpartition(":")[2]))

    def bring_up() -> None:
        outcome = run_steps(kind.Kind(settings).steps(), settings.logs, lambda _: None)
        assert not outcome.failed, [one.error for one in outcome.failed]

    return bring_up


def test_the_kubeconfig_of_the_person_is_left_alone(
    programs: Path, settings: Settings, bring_up: Callable[[], None]
) -> None:
    script(programs, "kind", 'test "$1 $2" != "get nodes" || echo node')
    bring_up()
    own = f"--kubeconfig {settings.cache / 'kind.kubeconfig'}"
    (create,) = calls(programs, "kind create cluster")
    assert own in create
    assert not calls(programs, "kind get kubeconfig"), "the log would have the cluster's key"
    run_steps(kind.Kind(settings).down(), settings.logs, lambda _: None)
    (delete,) = calls(programs, "kind delete cluster")
    assert own in delete


def test_a_stopped_cluster_is_started(
    programs: Path, settings: Settings, bring_up: Callable[[], None]
) -> None:
    answer = f'case "$1 $2" in "get clusters") echo {kind.CLUSTER};; "get nodes") echo a b;; esac'
    script(programs, "kind", answer)
    bring_up()
    assert not calls(programs, "kind create")
    assert calls(programs, "docker start a b")
    assert calls(programs, "kind export kubeconfig")


def test_the_cluster_is_there_when_pods_are_taken(
    programs: Path, settings: Settings, bring_up: Callable[[], None]
) -> None:
    script(programs, "kind", 'test "$1 $2" != "get nodes" || echo node')
    # First the node is not ready, then it has no account for pods, then it has.
    script(
        programs, "kubectl", f"n=$(grep -c '^kubectl' {programs}/calls); test $n -ne 1 -a $n -ne 3"
    )
    bring_up()
    asked = ["get serviceaccount" in call for call in calls(programs, "kubectl")]
    assert asked == [False, False, True, False, True]


@pytest.mark.parametrize("there", [True, False])
def test_a_registry_that_is_there_is_started_not_made(
    programs: Path, bring_up: Callable[[], None], there: bool
) -> None:
    script(programs, "kind", 'test "$1 $2" != "get nodes" || echo node')
    if not there:
        script(
            programs, "docker", f'test "$*" != "inspect -f {{{{.State.Status}}}} {kind.REGISTRY}"'
        )
    bring_up()
    assert len(calls(programs, f"docker start {kind.REGISTRY}")) == there
    assert len(calls(programs, "docker run")) == (not there)


def test_the_registry_goes_with_its_volume(programs: Path, settings: Settings) -> None:
    outcome = run_steps(kind.Kind(settings).down(), settings.logs, lambda _: None)
    assert not outcome.failed
    assert calls(programs, "docker rm") == [f"docker rm -f -v {kind.REGISTRY}"]


@pytest.mark.parametrize("kind_of_cluster", ["kind", "current"])
def test_docker_without_its_daemon_is_an_obstacle(
    programs: Path, tmp_path: Path, kind_of_cluster: str
) -> None:
    script(programs, "docker", "echo 'Cannot connect to the Docker daemon' >&2; exit 1")
    settings = Settings(cache=tmp_path, state=tmp_path, cluster=kind_of_cluster, registry="r")
    with pytest.raises(StepError, match=f"{kind_of_cluster}: Cannot connect to the Docker daemon"):
        choose_cluster(settings)


@pytest.mark.parametrize("caches", [True, False])
def test_images_that_were_built_go_with_the_caches(
    programs: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, caches: bool
) -> None:
    # A test's own folder can be too long for the sockets of a native cluster.
    short = TemporaryDirectory(prefix="t-")
    request.addfinalizer(short.cleanup)
    monkeypatch.setenv("TUNESMITH_CACHE", f"{short.name}/c")
    monkeypatch.setenv("TUNESMITH_STATE", f"{short.name}/s")
    names = f"localhost:{kind.PORT}/a:1 localhost:{kind.PORT}/tunesmith/b:2"
    script(programs, "docker", f'test "$1" != images || printf "%s\\n" {names}')
    arguments = ["clean-demo", "--cluster", "kind", *(["--caches"] if caches else [])]
    assert main(arguments) == 0
    assert calls(programs, "docker rmi") == ([f"docker rmi {names}"] if caches else [])


@pytest.mark.parametrize(
    ("registry_name", "is_plain"),
    [("localhost:5001", True), ("127.0.0.1:5001", True), ("ghcr.io/me", False)],
)
def test_only_a_registry_on_this_machine_is_asked_in_plain_http(
    tmp_path: Path, registry_name: str, is_plain: bool
) -> None:
    settings = Settings(cache=tmp_path, state=tmp_path, cluster="current", registry=registry_name)
    assert Current(settings).builder.insecure is is_plain
