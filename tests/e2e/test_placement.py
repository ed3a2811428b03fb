"""Where pods of a training go on a real cluster: two ranks, GPUs that come and go."""

import json

import pytest

from tests.e2e.lab import Lab, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1500)]


@pytest.mark.parametrize("sharding", ["DDP", "FSDP"])
def test_two_ranks_train_together(lab: Lab, namespace: str, sharding: str) -> None:
    lab.submit(namespace, "pair", compute={"nodes": 2, "sharding": sharding})
    lab.wait_for(namespace, "pair", "Complete")
    report = lab.report(namespace, "pair")
    assert report.training.ranks == 2
    assert report.training.sharding == sharding
    assert len(lab.pods(namespace, "pair", "train")) == 2


def test_gpus_are_asked_for_and_found_where_a_node_offers_them(lab: Lab, namespace: str) -> None:
    gpus = {"gpusPerNode": 2, "gpuType": "A100"}
    lab.submit(namespace, "gpu", compute=gpus)
    waiting = until(
        lambda: unschedulable(lab, namespace, "gpu"), 400, "the job to say that no node fits"
    )
    assert "2 GPU(s) of type A100" in waiting
    assert "Insufficient nvidia.com/gpu" in waiting or "node affinity" in waiting
    assert lab.status(namespace, "gpu").stage == "Pending"
    node = lab.kubectl.run("get", "nodes", "-o", "name").split()[0]
    try:
        offer_gpus(lab, node, 2)
        # The node has no GPU in truth: the trainer must say so, once, in plain words.
        failed = lab.wait_for(namespace, "gpu", "Failed", seconds=400)
    finally:
        offer_gpus(lab, node, 0)
    assert failed.reason == "GpuNotFound"
    (pod,) = lab.pods(namespace, "gpu", "train")
    assert pod["spec"]["nodeName"] == node.removeprefix("node/")
    assert pod["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "2"


def unschedulable(lab: Lab, namespace: str, name: str) -> str | None:
    found = lab.condition(namespace, name, "Trained")
    return found.message if found and found.reason == "Unschedulable" else None


def offer_gpus(lab: Lab, node: str, count: int) -> None:
    """Play the device plugin: the extended resource and NVIDIA's label."""
    label = "nvidia.com/gpu.product=NVIDIA-A100-SXM4-80GB" if count else "nvidia.com/gpu.product-"
    lab.kubectl.run("label", "--overwrite", node, label)
    path = "/status/capacity/nvidia.com~1gpu"
    patch = [{"op": "add", "path": path, "value": str(count)}]
    lab.kubectl.run("patch", node, "--subresource=status", "--type=json", "-p", json.dumps(patch))
