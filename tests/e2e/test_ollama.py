"""A trained model behind a real Ollama, in pods as the operator makes them.

Needs Ollama, which takes minutes to build; so it is part of ``make test-ollama``. What Ollama makes
of our artifact is tests/trainer/test_ollama.py, the sidecar before it tests/sidecar/test_ollama.py.
"""

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.images import content_digest, is_pushed
from deploy.kubectl import Manifest
from deploy.load import failures
from deploy.native.binaries import find_binary
from tests.e2e.lab import Lab
from tests.e2e.rollouts import Deployments

OLLAMA = os.environ.get("OLLAMA") or shutil.which("ollama") or find_binary("ollama")
NAMESPACE = "e2e-ollama"
NAME = "chat"
DOCKERFILE = Path(__file__).parent / "ollama" / "Dockerfile"

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not OLLAMA, reason="no ollama on PATH, OLLAMA not set"),
]


@pytest.fixture(scope="module")
def image(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Put the program into an image and push it."""
    builder, context = lab.cluster.builder, tmp_path_factory.mktemp("ollama")
    dockerfile = Path(shutil.copy(DOCKERFILE, context))
    shutil.copy2(Path(str(OLLAMA)).resolve(), context / "ollama")
    name = f"{builder.registry}/tunesmith/ollama:{content_digest(dockerfile)}"
    if not is_pushed(name, insecure=builder.insecure):
        builder.build(dockerfile, name, lab.log, context=context)
    return name


@pytest.fixture(scope="module")
def fleet(lab: Lab, image: str) -> Iterator[Deployments]:
    """Train a tiny model for Ollama."""
    lab.kubectl.run("delete", "namespace", NAMESPACE, "--ignore-not-found", "--wait")
    lab.make_namespace(NAMESPACE)
    source = lab.train_tiny(NAMESPACE, "Ollama")
    yield Deployments(lab.kubectl, NAMESPACE, image, source)
    lab.kubectl.run("delete", "namespace", NAMESPACE, "--wait=false")


def engine(*lines: str) -> Manifest:
    resources = {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "1Gi"}}
    return {"type": "Ollama", "env": [], "args": list(lines), "resources": resources}


def test_a_trained_model_is_served_and_another_revision_takes_over(fleet: Deployments) -> None:
    fleet.apply(NAME, engine=engine())
    fleet.wait_until_stable(NAME, 1, seconds=300)
    old = fleet.status(NAME).stable
    with fleet.load(NAME, rate=5) as load:
        fleet.apply(NAME, engine=engine("PARAMETER seed 7"))
        fleet.wait_until_stable(NAME, 2, seconds=300)
        time.sleep(2)
    new, answers = fleet.status(NAME).stable, list(load.answers)
    assert old is not None
    assert new is not None
    assert failures(answers) == []
    assert {a.revision for a in answers} == {old.name, new.name}
    assert answers[-1].revision == new.name


def test_lines_that_ollama_refuses_are_rolled_back_and_stable_fails_nobody(
    fleet: Deployments,
) -> None:
    before = fleet.status(NAME).stable
    assert before is not None
    with fleet.load(NAME, rate=5) as load:
        fleet.apply(NAME, engine=engine("NONSENSE of a person"))
        fleet.wait_for_phase(NAME, "RolledBack", seconds=300)
    status = fleet.status(NAME)
    assert status.stable is not None
    assert status.stable.name == before.name
    assert status.last_rollback is not None
    assert status.last_rollback.reason in ("CrashLooping", "ReadyTimeout")
    assert failures(list(load.answers)) == []
