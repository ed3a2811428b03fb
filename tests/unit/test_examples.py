"""Every example is a legal object, and the example data is what the examples say it is."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tunesmith_api import API_VERSION
from tunesmith_api.finetunejob import FineTuneJob
from tunesmith_api.modeldeployment import ModelDeployment
from tunesmith_api.modelversion import Artifact, ModelVersion, ModelVersionSpec
from tunesmith_operator.metrics.golden import parse_prompts
from tunesmith_operator.planning.names import model_name
from tunesmith_operator.planning.observed import Observation, SeenTarget
from tunesmith_operator.planning.offers import make_offer, tags_of
from tunesmith_operator.planning.sources import SourceObjection, resolve

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
DATA = EXAMPLES / "data"
FILES = sorted(EXAMPLES.glob("*.yaml"))
KINDS = {model.KIND: model for model in (FineTuneJob, ModelVersion, ModelDeployment)}
DEMO_BUCKET = "s3://tunesmith/data/"


def load_all(path: Path) -> list[dict[str, Any]]:
    documents = list(yaml.safe_load_all(path.read_text()))
    assert all(isinstance(d, dict) for d in documents)
    return documents


def load(path: Path) -> dict[str, Any]:
    """Give the one document of ours; only ConfigMaps may be beside it."""
    documents = load_all(path)
    assert {d["kind"] for d in documents[1:]} <= {"ConfigMap"}
    return documents[0]


def rows(name: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (DATA / name).read_text().splitlines()]


def normal(text: str) -> str:
    return " ".join(text.lower().split())


each_example = pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)


def test_there_are_examples() -> None:
    assert {p.stem for p in FILES} >= {
        "finetunejob",
        "modeldeployment",
        "tiny",
        "gpu-qlora",
        "multi-node",
    }


@each_example
def test_an_example_parses(path: Path) -> None:
    document = load(path)
    assert document["apiVersion"] == API_VERSION
    KINDS[document["kind"]].model_validate(document)


@each_example
def test_an_example_fits_the_crds_schema(path: Path) -> None:
    document = load(path)
    definition = load(ROOT / "crds" / f"tunesmith.dev_{KINDS[document['kind']].PLURAL}.yaml")
    (version,) = definition["spec"]["versions"]
    # Draft 4 is what OpenAPI 3.0, and with it a CRD, takes its keywords from.
    jsonschema.Draft4Validator(version["schema"]["openAPIV3Schema"]).validate(document)


@each_example
def test_an_example_says_in_its_first_line_what_it_shows(path: Path) -> None:
    first, second = path.read_text().splitlines()[:2]
    assert first.startswith("# ")
    assert second.startswith("apiVersion: ")


@each_example
def test_data_of_the_demo_bucket_is_in_the_repository(path: Path) -> None:
    dataset = load(path)["spec"].get("dataset", {})
    uris = [dataset.get(part, {}).get("uri", "") for part in ("train", "validation", "test")]
    for uri in uris:
        if uri.startswith(DEMO_BUCKET):
            assert (DATA / uri.removeprefix(DEMO_BUCKET)).is_file()


def job_and_deployment() -> tuple[FineTuneJob, ModelDeployment]:
    job = FineTuneJob.model_validate(load(EXAMPLES / "finetunejob.yaml"))
    deployment = ModelDeployment.model_validate(load(EXAMPLES / "modeldeployment.yaml"))
    return job, deployment


def test_the_demos_job_fits_on_two_cores_beside_a_control_plane_in_pods() -> None:
    control_plane = 950  # of kind: kubeadm's static pods, two of CoreDNS, kindnet
    demo = 350  # the operator, the S3 server, two routers
    job, _ = job_and_deployment()
    asked = job.spec.compute.resources.requests["cpu"]
    assert asked.endswith("m")
    assert int(asked[:-1]) <= 2000 - control_plane - demo


def test_the_deployment_rolls_out_what_the_job_offers_it() -> None:
    job, deployment = job_and_deployment()
    assert job.spec.deploy_to is not None
    assert (job.spec.deploy_to.name, job.metadata.namespace) == (
        deployment.metadata.name,
        deployment.metadata.namespace,
    )
    source = deployment.spec.source
    assert source.model is not None
    assert source.channel is not None
    seen = Observation(job, target=SeenTarget(True, source.model, source.channel))
    artifacts = tuple(
        Artifact(format=name, uri="s3://tunesmith/m/", digest="sha256:" + "a" * 64, size_bytes=1)
        for name in job.spec.output.artifacts
    )
    offered = ModelVersionSpec(
        model=model_name(job), version="1", artifacts=artifacts, tags=tags_of(job, make_offer(seen))
    )
    version = ModelVersion.model_validate({"metadata": {"name": "v1"}, "spec": offered})
    assert not isinstance(resolve(deployment.spec, [version]), SourceObjection)


def test_golden_prompts_are_beside_the_deployment_and_were_not_trained_on() -> None:
    _, deployment = job_and_deployment()
    maps = {d["metadata"]["name"]: d for d in load_all(EXAMPLES / "modeldeployment.yaml")[1:]}
    metrics = deployment.spec.rollout.analysis.metrics
    (golden,) = [m.golden_prompts for m in metrics if m.golden_prompts is not None]
    found = maps[golden.config_map_ref.name]
    assert found["metadata"]["namespace"] == deployment.metadata.namespace
    text = found["data"][golden.config_map_ref.key]
    questions = parse_prompts(text, golden.max_prompts)
    assert len(questions) == len(text.splitlines())
    held_out = {row["prompt"]: row["response"] for row in rows("about-tunesmith-heldout.jsonl")}
    assert {q.prompt: q.answer for q in questions}.items() <= held_out.items()


@pytest.mark.parametrize("path", sorted(DATA.glob("*.jsonl")), ids=lambda p: p.name)
def test_data_is_prompts_with_answers_without_repetition(path: Path) -> None:
    found = rows(path.name)
    answers = {"chosen", "rejected"} if "preferences" in path.name else {"response"}
    for row in found:
        assert set(row) == {"prompt", *answers}
        assert all(text == text.strip() and text for text in row.values())
    twice = [p for p, n in Counter(normal(row["prompt"]) for row in found).items() if n > 1]
    assert twice == []


def test_there_is_enough_to_learn_from_and_to_judge_by() -> None:
    assert len(rows("about-tunesmith.jsonl")) >= 200
    assert len(rows("about-tunesmith-heldout.jsonl")) >= 30


def test_no_held_out_question_is_trained_on() -> None:
    trained = {normal(row["prompt"]) for row in rows("about-tunesmith.jsonl")}
    held_out = {normal(row["prompt"]) for row in rows("about-tunesmith-heldout.jsonl")}
    assert not trained & held_out


def test_no_held_out_answer_is_a_trained_sentence() -> None:
    trained = {normal(row["response"]) for row in rows("about-tunesmith.jsonl")}
    held_out = {normal(row["response"]) for row in rows("about-tunesmith-heldout.jsonl")}
    assert not trained & held_out


def test_defaults_named_in_the_data_are_those_of_the_contract() -> None:
    minimal = {
        "metadata": {"name": "x"},
        "spec": {
            "model": {"uri": "builtin://tiny"},
            "dataset": {"train": {"uri": "s3://data/x.jsonl"}},
            "output": {"uri": "s3://models/x/"},
        },
    }
    spec = FineTuneJob.model_validate(minimal).spec
    answers = {row["prompt"]: row["response"] for row in rows("about-tunesmith.jsonl")}
    lora = spec.method.adapter
    assert lora is not None
    for prompt, words in {
        "What is the default method?": f"rank {lora.rank}, alpha {lora.alpha} and dropout "
        f"{lora.dropout}",
        "What is the default learning rate?": f"is {spec.hyperparameters.learning_rate}.",
        "How many epochs are trained by default?": f"for {spec.hyperparameters.epochs} epochs",
        "What is the default batch size?": f"is {spec.hyperparameters.per_device_batch_size} rows",
        "What is maxSequenceLength?": f"is {spec.hyperparameters.max_sequence_length},",
        "What is the default seed?": f"is {spec.hyperparameters.seed}.",
        "What is the default scheduler?": f"is {spec.hyperparameters.scheduler}.",
        "What is the default artifact?": f"is {spec.output.artifacts[0]},",
        "How large is the test split by default?": f"{spec.dataset.test.percent} percent",
        "How often is a checkpoint saved?": f"every {spec.checkpoint.every_steps} optimizer steps",
        "How many checkpoints are kept?": f"the last {spec.checkpoint.keep_last} are kept",
        "How long may a checkpoint take on SIGTERM?": f"{spec.checkpoint.grace_period_seconds} s",
        "What is backoffLimit?": f"default is {spec.run_policy.backoff_limit}.",
        "What is disruptionLimit?": f"default is {spec.run_policy.disruption_limit}.",
        "What is stallTimeoutSeconds?": f"is {spec.run_policy.stall_timeout_seconds} seconds",
        "How long may the prepare stage take?": f"{spec.run_policy.stage_timeout_seconds.prepare}",
        "How large is the shared memory?": f"is {spec.compute.shared_memory}.",
    }.items():
        assert words in answers[prompt], prompt
