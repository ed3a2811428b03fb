"""Adapters in a real vLLM that loads their base model from S3, behind the sidecar of such a pod."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from safetensors.torch import load_file, save

from tests.cli.conftest import FinishedRun
from tests.sidecar.adapter_pods import Pod
from tests.sidecar.conftest import TOKEN
from tests.sidecar.test_drain import sidecar
from tests.sidecar.test_fetch import digest_of, put_model
from tests.trainer.conftest import REGION, Bucket, S3Server, free_port, new_bucket
from tests.unit.deployments import SERVING, make_adapter, make_deployment
from tests.unit.manifests import container
from tests.vllm.program import ON_A_CPU, Answer, Program, artifact, needs_vllm, program, question
from tunesmith_api.adapters import AdapterPhase, WantedAdapter
from tunesmith_operator.resources.serving.sidecar import Tokens
from tunesmith_operator.resources.serving.workload import build_host
from tunesmith_trainer.tiny import write_tiny

pytestmark = [needs_vllm, pytest.mark.timeout(1800)]


class VllmPod(Pod):
    """A pod whose engine is vLLM."""

    program: Program

    def start_engine(self) -> None:
        self.engine = self.program.start()

    def kill_engine(self) -> None:
        self.program.kill()


@pytest.fixture(scope="module")
def stored(s3_server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Bucket:
    """Give a bucket with the base model."""
    made = new_bucket(s3_server, tmp_path_factory.mktemp("credentials"))
    folder = tmp_path_factory.mktemp("base")
    write_tiny(folder)
    for path in folder.iterdir():
        made.put(f"base/{path.name}", path.read_bytes())
    return made


@pytest.fixture(scope="module")
def part(stored: Bucket) -> dict[str, Any]:
    """Give the engine's container of such pods."""
    s3 = {"endpoint": stored.server.endpoint, "region": REGION, "pathStyle": True}
    s3 |= {"secretRef": {"name": "s3"}}
    engine = {"type": "VLLM", "args": ON_A_CPU}
    deployment = make_deployment(engine=engine, delivery="Adapter", s3=s3)
    template = make_adapter(deployment, stored.uri("base/")).template
    host = build_host(deployment, "host", template, 1, SERVING, tokens=Tokens())
    return container(host["spec"]["template"]["spec"], "engine")


@pytest.fixture(scope="module")
def engine(part: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    with program(part, part["args"][0], tmp_path_factory.mktemp("home")) as started:
        yield started


@pytest.fixture
async def pod(engine: Program, stored: Bucket, tmp_path: Path) -> AsyncIterator[VllmPod]:
    given = {
        "revision": "support-base-1",
        "engine_url": engine.url,
        "served_model": "support",
        "adapters_folder": tmp_path / "adapters",
        "adapters_token_digest": digest_of(TOKEN.encode()),
        "adapters_base_model": stored.uri("base/"),
        "adapters_endpoint": stored.server.endpoint,
        "adapters_region": REGION,
        "adapters_path_style": "true",
        "pre_stop_seconds": 0,
    }
    log = tmp_path / "log"
    with sidecar(log, **given) as (url, process):
        async with aiohttp.ClientSession() as session:
            made = VllmPod(url, stored, session, engine.port, engine.process, [], process)
            made.program = engine
            await made.until(lambda _: True)
            yield made
            made.wanted.clear()
            await made.tell()
            await made.until(lambda held: not held)
    print(log.read_text())


def want(pod: Pod, name: str, folder: Path, *, rank: int = 0, required: bool = True) -> None:
    """Want an adapter that training made, or one of another rank after it."""
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".md"}
    files.pop("manifest.json", None)
    if rank:
        files |= of_rank(rank, folder)
    digest = put_model(pod.bucket, f"{name}/", files)
    pod.wanted[name] = WantedAdapter(
        revision=name,
        uri=pod.bucket.uri(f"{name}/"),
        digest=digest,
        port=free_port(),
        is_required=required,
    )


def of_rank(rank: int, folder: Path) -> dict[str, bytes]:
    """Give the files of an adapter with more rows, which are all the first one."""
    config = json.loads((folder / "adapter_config.json").read_bytes()) | {"r": rank}
    weights = load_file(folder / "adapter_model.safetensors")
    wide = {
        name: (
            matrix[:1].repeat(rank, 1) if "lora_A" in name else matrix[:, :1].repeat(1, rank)
        ).contiguous()
        for name, matrix in weights.items()
    }
    return {
        "adapter_config.json": json.dumps(config).encode(),
        "adapter_model.safetensors": save(wide),
    }


async def said_by(pod: Pod, name: str) -> str:
    status, said = await pod.ask(name, question())
    assert (status, said["model"]) == (200, name)
    return str(said["choices"][0]["message"]["content"])


async def test_an_adapter_answers_as_the_merged_model_and_leaves(
    pod: VllmPod, run: FinishedRun, answer: Answer, engine: Program
) -> None:
    folder = artifact(run, "adapter")
    want(pod, "support-a", folder)
    await pod.tell()
    await pod.until_loaded("support-a")
    assert await pod.readiness("support-a") == (200, "ok")
    assert await said_by(pod, "support-a") == answer.text
    # Another one comes while the first one serves.
    want(pod, "support-b", folder, rank=2, required=False)
    await pod.tell()
    await pod.until_loaded("support-a", "support-b")
    assert await said_by(pod, "support-b") != answer.text
    assert await models(pod, engine) == {"support-base", "support-a", "support-b"}
    del pod.wanted["support-b"]
    await pod.tell()
    await pod.until(lambda held: set(held) == {"support-a"})
    assert await models(pod, engine) == {"support-base", "support-a"}
    assert await said_by(pod, "support-a") == answer.text


async def models(pod: Pod, engine: Program) -> set[str]:
    async with pod.session.get(engine.url + "/v1/models") as listed:
        return {card["id"] for card in (await listed.json())["data"]}


async def test_what_it_cannot_load_is_refused_in_its_words(
    pod: VllmPod, run: FinishedRun, answer: Answer
) -> None:
    folder = artifact(run, "adapter")
    want(pod, "support-a", folder)
    want(pod, "support-wide", folder, rank=128, required=False)
    await pod.tell()
    await pod.until_loaded("support-a")
    await pod.until(lambda held: held["support-wide"][0] is AdapterPhase.REFUSED)
    assert "greater than max_lora_rank 64" in (await pod.report())["support-wide"][1]
    assert await pod.readiness() == (200, "ok")
    assert await said_by(pod, "support-a") == answer.text


async def test_an_engine_that_was_killed_gets_its_adapter_back(
    pod: VllmPod, run: FinishedRun, answer: Answer
) -> None:
    want(pod, "support-a", artifact(run, "adapter"))
    await pod.tell()
    await pod.until_loaded("support-a")
    pod.kill_engine()
    await pod.until(lambda held: held["support-a"][0] is AdapterPhase.LOADING)
    assert (await pod.readiness())[0] == 503
    pod.start_engine()
    await asyncio.to_thread(pod.program.wait_until_loaded)
    await pod.until_loaded("support-a")
    assert await said_by(pod, "support-a") == answer.text
