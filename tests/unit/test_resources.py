"""Manifests of an attempt: GPUs, nodes, credentials, security."""

import re
from typing import Any

import pytest

from tests.unit.jobs import CONFIG, make_job
from tunesmith_api.attempts import StageName
from tunesmith_api.finetunejob import FineTuneJob
from tunesmith_api.run import PVC_PATH, PlannedGpus, TrainingRun
from tunesmith_operator.config import KueueConfig
from tunesmith_operator.planning.runs import build_run
from tunesmith_operator.resources.attempt import QUEUE_LABEL, build_job, build_service
from tunesmith_operator.resources.pod import RUN_ANNOTATION


def built(job: FineTuneJob, stage: StageName = StageName.TRAIN) -> dict[str, Any]:
    return build_job(job, f"support-{stage}-1", build_run(job, stage, 1, CONFIG), CONFIG)


def pod_of(job: FineTuneJob, stage: StageName = StageName.TRAIN) -> dict[str, Any]:
    spec: dict[str, Any] = built(job, stage)["spec"]["template"]["spec"]
    return spec


def container_of(job: FineTuneJob, stage: StageName = StageName.TRAIN) -> dict[str, Any]:
    first: dict[str, Any] = pod_of(job, stage)["containers"][0]
    return first


def test_a_gpu_type_with_several_products_becomes_a_node_affinity() -> None:
    pod = pod_of(make_job(compute={"gpusPerNode": 2, "gpuType": "A100"}))
    terms = pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert terms["nodeSelectorTerms"] == [
        {
            "matchExpressions": [
                {
                    "key": "nvidia.com/gpu.product",
                    "operator": "In",
                    "values": ["A100-40", "A100-80"],
                }
            ]
        }
    ]
    assert pod["containers"][0]["resources"]["limits"] == {"nvidia.com/gpu": "2"}
    assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in pod[
        "tolerations"
    ]


def test_a_gpu_type_with_one_product_becomes_a_node_selector() -> None:
    job = make_job(compute={"gpuType": "L4", "nodeSelector": {"zone": "a"}})
    assert pod_of(job)["nodeSelector"] == {"nvidia.com/gpu.product": "NVIDIA-L4", "zone": "a"}


def test_preparation_takes_no_gpu_and_no_gpu_node() -> None:
    pod = pod_of(make_job(compute={"gpusPerNode": 8, "gpuType": "A100"}), StageName.PREPARE)
    assert "affinity" not in pod
    assert "tolerations" not in pod
    assert "nvidia.com/gpu" not in pod["containers"][0]["resources"].get("limits", {})


def test_one_rank_is_started_plainly() -> None:
    command = container_of(make_job(compute={"gpusPerNode": 1}))["command"]
    assert command[:3] == ["python3", "-m", "tunesmith_trainer"]


def test_several_gpus_of_one_node_are_launched_without_a_rendezvous() -> None:
    command = container_of(make_job(compute={"gpusPerNode": 4}))["command"]
    assert command[:2] == ["accelerate", "launch"]
    assert "--num_processes=4" in command
    assert "--num_machines=1" in command
    assert not any("main_process_ip" in word for word in command)


def test_several_nodes_find_each_other_by_the_headless_service() -> None:
    job = make_job(compute={"nodes": 3, "gpusPerNode": 2})
    manifest = built(job)
    spec = manifest["spec"]
    assert (spec["completions"], spec["parallelism"]) == (3, 3)
    assert spec["completionMode"] == "Indexed"
    service = build_service(job)
    assert spec["template"]["spec"]["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["selector"].items() <= spec["template"]["metadata"]["labels"].items()
    command = spec["template"]["spec"]["containers"][0]["command"]
    assert "--num_processes=6" in command
    assert "--machine_rank=$(JOB_COMPLETION_INDEX)" in command
    assert "--main_process_ip=support-train-1-0.support-train" in command


def test_one_node_needs_no_service_to_be_found_by() -> None:
    assert "subdomain" not in pod_of(make_job(compute={"gpusPerNode": 4}))


def test_the_run_travels_in_the_pod_template_and_reads_back() -> None:
    job = make_job()
    notes = built(job)["spec"]["template"]["metadata"]["annotations"]
    run = TrainingRun.model_validate_json(notes[RUN_ANNOTATION])
    assert run == build_run(job, StageName.TRAIN, 1, CONFIG)
    assert run.run_uri == "s3://acme/models/support-12345678/"


@pytest.mark.parametrize(
    ("given", "secret"),
    [
        pytest.param({"secretRef": {"name": "hub"}}, "hub", id="its own"),
        pytest.param({}, "hf", id="the model's"),
    ],
)
def test_a_push_to_the_hub_gets_its_token(given: dict[str, Any], secret: str) -> None:
    target = {"repository": "acme/support"} | given
    job = make_job(
        model={"uri": "hf://acme/base", "secretRef": {"name": "hf"}},
        output={"uri": "s3://acme/models/", "huggingFace": target},
    )
    pod = pod_of(job)
    volumes = {v["name"]: v.get("secret", {}) for v in pod["volumes"]}
    assert volumes["credentials-hub"]["secretName"] == secret
    mounts = {m["name"]: m["mountPath"] for m in pod["containers"][0]["volumeMounts"]}
    assert mounts["credentials-hub"].endswith("/hub")
    assert "credentials-hub" not in {v["name"] for v in pod_of(make_job())["volumes"]}


def test_each_role_gets_its_own_credentials_and_the_charts_where_it_names_none() -> None:
    job = make_job(
        dataset={"train": {"uri": "s3://acme/t"}, "secretRef": {"name": "data-s3"}},
        s3={"secretRef": {"name": "job-s3"}},
    )
    volumes = {v["name"]: v.get("secret", {}) for v in pod_of(job)["volumes"]}
    assert volumes["credentials-dataset"] == {"secretName": "data-s3", "optional": True}
    assert volumes["credentials-output"]["secretName"] == "job-s3"
    plain = {v["name"]: v.get("secret", {}) for v in pod_of(make_job())["volumes"]}
    assert plain["credentials-model"]["secretName"] == "chart-s3"


def test_services_that_are_told_of_the_curve_have_their_own_secrets() -> None:
    tracking = {
        "mlflow": {"uri": "http://mlflow:5000"},
        "wandb": {"project": "p", "secretRef": {"name": "wandb-key"}},
    }
    job = make_job(output={"uri": "s3://acme/models/support/", "tracking": tracking})
    names = {v["name"]: v["secret"]["secretName"] for v in pod_of(job)["volumes"] if "secret" in v}
    assert names["credentials-wandb"] == "wandb-key"
    assert "credentials-mlflow" not in names


@pytest.mark.parametrize("stage", list(StageName))
def test_the_key_of_a_judge_is_there_in_both_stages(stage: StageName) -> None:
    """Prepare says that it is missing, before a GPU is taken for what nobody could judge."""
    judge = {"url": "http://judge/v1", "model": "j", "secretRef": {"name": "judge-key"}}
    suites = [{"name": "first", "heldOut": {}}, {"name": "second", "judge": judge}]
    dataset = {"train": {"uri": "s3://acme/t"}, "test": {"percent": "10"}}
    pod = pod_of(make_job(evaluation={"suites": suites}, dataset=dataset), stage)
    names = {v["name"]: v["secret"] for v in pod["volumes"] if "secret" in v}
    assert names["credentials-judge-1"] == {"secretName": "judge-key", "optional": True}


def test_claims_are_mounted_read_only_and_once() -> None:
    job = make_job(
        model={"uri": "pvc://models/llama"},
        dataset={
            "train": {"sources": [{"uri": "pvc://models/data.jsonl"}, {"uri": "pvc://chats/a/"}]}
        },
    )
    claims = [v for v in pod_of(job)["volumes"] if "persistentVolumeClaim" in v]
    assert [c["persistentVolumeClaim"] for c in claims] == [
        {"claimName": "chats", "readOnly": True},
        {"claimName": "models", "readOnly": True},
    ]


def test_a_claim_may_have_any_name_that_kubernetes_takes() -> None:
    claim = "models." + "x" * 70
    pod = pod_of(make_job(model={"uri": f"pvc://{claim}/llama"}))
    (volume,) = [v for v in pod["volumes"] if "persistentVolumeClaim" in v]
    assert volume["persistentVolumeClaim"]["claimName"] == claim
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", volume["name"])
    mounts = {m["name"]: m["mountPath"] for m in pod["containers"][0]["volumeMounts"]}
    assert mounts[volume["name"]] == f"{PVC_PATH}/{claim}"


def test_the_pod_is_restricted_and_holds_no_kubernetes_credentials() -> None:
    pod = pod_of(make_job())
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    security = pod["containers"][0]["securityContext"]
    assert security["readOnlyRootFilesystem"] is True
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert pod["restartPolicy"] == "Never"


def test_what_a_job_says_of_its_pods_reaches_them() -> None:
    own = {"key": "spot", "operator": "Exists", "effect": "NoSchedule"}
    job = make_job(
        compute={
            "gpusPerNode": 1,
            "serviceAccountName": "trainer",
            "sharedMemory": "3Gi",
            "tolerations": [own],
        },
        checkpoint={"gracePeriodSeconds": 77},
        runPolicy={"priorityClassName": "urgent"},
    )
    train, prepare = pod_of(job), pod_of(job, StageName.PREPARE)
    for pod in (train, prepare):
        assert pod["serviceAccountName"] == "trainer"
        assert pod["priorityClassName"] == "urgent"
        assert pod["terminationGracePeriodSeconds"] == 77
    assert own in train["tolerations"]
    assert len(train["tolerations"]) == 2, "and the chart's own for GPUs"
    assert "tolerations" not in prepare
    shm = {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "3Gi"}}
    assert shm in train["volumes"]
    mounts = {m["name"]: m["mountPath"] for m in train["containers"][0]["volumeMounts"]}
    assert mounts["shm"] == "/dev/shm"
    assert "shm" not in {v["name"] for v in prepare["volumes"]}


def test_what_a_job_does_not_say_of_its_pods_is_left_to_the_cluster() -> None:
    pod = pod_of(make_job(compute={"gpusPerNode": 0}))
    assert not {"serviceAccountName", "priorityClassName", "tolerations"} & pod.keys()


def test_the_job_is_owned_runs_once_and_never_twice_at_a_time() -> None:
    manifest = built(make_job())
    (owner,) = manifest["metadata"]["ownerReferences"]
    assert owner["uid"] == "12345678-aaaa"
    assert owner["controller"] is True
    assert manifest["spec"]["backoffLimit"] == 0
    assert manifest["spec"]["podReplacementPolicy"] == "Failed"


def test_only_training_queues_for_quota() -> None:
    job = make_job(labels={QUEUE_LABEL: "gpus"})
    train, prepare = built(job), built(job, StageName.PREPARE)
    assert train["metadata"]["labels"][QUEUE_LABEL] == "gpus"
    assert train["spec"]["suspend"] is True
    assert QUEUE_LABEL not in prepare["metadata"]["labels"]
    assert "suspend" not in prepare["spec"]


def test_a_queue_without_kueue_holds_nothing_up() -> None:
    config = CONFIG.model_copy(update={"kueue": KueueConfig()})
    job = make_job(labels={QUEUE_LABEL: "gpus"})
    manifest = build_job(job, "j", build_run(job, StageName.TRAIN, 2, config), config)
    assert "suspend" not in manifest["spec"]


@pytest.mark.parametrize("chart", [True, False])
@pytest.mark.parametrize("own", [True, False, None])
def test_the_jobs_path_style_wins_also_when_it_is_false(chart: bool, own: bool | None) -> None:
    s3 = CONFIG.s3.model_copy(update={"path_style": chart})
    job = make_job(s3={"region": "eu"} if own is None else {"pathStyle": own})
    run = build_run(job, StageName.TRAIN, 2, CONFIG.model_copy(update={"s3": s3}))
    assert run.s3.path_style is (chart if own is None else own)


def test_preparation_is_told_which_gpus_training_will_get() -> None:
    config = CONFIG.model_copy(
        update={"gpu": CONFIG.gpu.model_copy(update={"memory_gib": {"A100": 80}})}
    )
    job = make_job(compute={"gpusPerNode": 2, "gpuType": "A100"})
    planned = build_run(job, StageName.PREPARE, 1, config).planned_gpus
    assert planned == PlannedGpus(type="A100", memory_bytes=80 * 1024**3, ranks=2)
    assert build_run(job, StageName.TRAIN, 1, config).planned_gpus is None
    on_cpu = make_job(compute={"gpusPerNode": 0})
    assert build_run(on_cpu, StageName.PREPARE, 1, config).planned_gpus is None


@pytest.mark.parametrize(
    ("asked", "expected"),
    [pytest.param("Auto", "DDP", id="whole copies"), pytest.param("FSDP", "FSDP", id="parts")],
)
def test_on_cpus_the_model_is_held_as_the_job_says(asked: str, expected: str) -> None:
    job = make_job(compute={"nodes": 2, "gpusPerNode": 0, "sharding": asked})
    assert build_run(job, StageName.TRAIN, 2, CONFIG).world.sharding == expected
