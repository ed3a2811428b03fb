"""A trained model behind a real vLLM, in pods as the operator makes them.

Needs vLLM, whose image has gigabytes; so it is part of ``make test-vllm``. What vLLM makes of
models, adapters and signals is tests/vllm.
"""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.images import content_digest, is_pushed
from deploy.kubectl import Manifest
from deploy.load import failures
from deploy.vllm import NUMA
from tests.e2e.lab import Lab
from tests.e2e.rollouts import Deployments
from tests.vllm.program import VLLM, needs_vllm

NAMESPACE = "e2e-vllm"
NAME = "chat"
# It imports for half a minute, and longer beside a test's other pods.
SLOW = {"readyTimeoutSeconds": 900}
DOCKERFILE = Path(__file__).parent / "vllm" / "Dockerfile"

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800), needs_vllm]


@pytest.fixture(scope="module")
def image(lab: Lab) -> str:
    """Put the program's packages into an image and push it."""
    builder = lab.cluster.builder
    environment = Path(VLLM).parents[1]
    (packages,) = environment.glob("lib/python*/site-packages")
    name = f"{builder.registry}/tunesmith/vllm:{environment.name}-{content_digest(DOCKERFILE)}"
    if not is_pushed(name, insecure=builder.insecure):
        numa = packages / "libnuma"
        numa.mkdir(exist_ok=True)
        shutil.copy2(NUMA, numa)
        builder.build(DOCKERFILE, name, lab.log, context=packages)
    return name


@pytest.fixture(scope="module")
def fleet(lab: Lab, image: str) -> Iterator[Deployments]:
    """Train a tiny model for vLLM."""
    lab.kubectl.run("delete", "namespace", NAMESPACE, "--ignore-not-found", "--wait")
    lab.make_namespace(NAMESPACE)
    lab.submit(NAMESPACE, "tiny", output={"artifacts": ["Merged"]})
    lab.wait_for(NAMESPACE, "tiny", "Complete")
    yield Deployments(lab.kubectl, NAMESPACE, image, {"modelVersion": "tiny-v1"})
    lab.kubectl.run("delete", "namespace", NAMESPACE, "--wait=false")


def engine(*more: str) -> Manifest:
    # What anybody changes who has no GPU.
    args = ["--enforce-eager", "--max-model-len=256", *more]
    # Its own images have a compiler, ours has none.
    known = {"VLLM_CPU_KVCACHE_SPACE": "1", "TORCHDYNAMO_DISABLE": "1"}
    env = [{"name": name, "value": text} for name, text in known.items()]
    resources = {"requests": {"cpu": "500m", "memory": "1Gi"}, "limits": {"memory": "6Gi"}}
    return {"type": "VLLM", "args": args, "env": env, "resources": resources}


def test_a_trained_model_is_served_and_a_wrong_option_is_rolled_back(fleet: Deployments) -> None:
    fleet.apply(NAME, engine=engine(), rollout=SLOW)
    fleet.wait_until_stable(NAME, 1, seconds=900)
    stable = fleet.status(NAME).stable
    assert stable is not None
    with fleet.load(NAME, rate=2) as load:
        fleet.apply(NAME, engine=engine("--no-such-option"), rollout=SLOW)
        fleet.wait_for_phase(NAME, "RolledBack", seconds=600)
        time.sleep(2)
    status, answers = fleet.status(NAME), list(load.answers)
    assert status.last_rollback is not None
    assert status.last_rollback.reason in ("CrashLooping", "ReadyTimeout")
    assert status.stable is not None
    assert status.stable.name == stable.name
    assert failures(answers) == []
    assert {answer.revision for answer in answers} == {stable.name}
