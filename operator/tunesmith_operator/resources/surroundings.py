"""What the cluster's owner adds to pods by the chart's values: labels, variables, places, a CA.

The builders of pods say what the pod is for; this page is the last to touch a pod's template, and
what a builder or a spec has said already always wins. Pure, as all builders are.
"""

from typing import Any

from tunesmith_operator.config import Config, EphemeralVolume, PodSettings
from tunesmith_operator.resources.metadata import Manifest
from tunesmith_operator.resources.scheduling import toleration_manifest

CA_FOLDER, CA_FILE = "/var/run/tunesmith/ca", "ca.crt"
CA_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "AWS_CA_BUNDLE")
"""Read by Python and OpenSSL, by requests, and by boto3, which reads neither of the others."""
_CA_VOLUME = "ca-bundle"


def surround(template: Manifest, pods: PodSettings, config: Config) -> Manifest:
    """Give a pod template with what the cluster's owner wants of such pods."""
    metadata, spec = template["metadata"], template["spec"]
    notes = {**pods.annotations, **metadata.get("annotations", {})}
    return {
        "metadata": {
            **metadata,
            "labels": {**pods.labels, **metadata["labels"]},
            **({"annotations": notes} if notes else {}),
        },
        "spec": _with_certificates(_placed(_with_variables(spec, pods), pods, config), config),
    }


def build_scratch(name: str, volume: EphemeralVolume) -> Manifest:
    """Give a volume that lives as long as the pod: on the node's disk, or one of its own."""
    if not volume.size:
        return {"name": name, "emptyDir": {}}
    claim: dict[str, Any] = {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": volume.size}},
    }
    if volume.storage_class_name:
        claim["storageClassName"] = volume.storage_class_name
    return {"name": name, "ephemeral": {"volumeClaimTemplate": {"spec": claim}}}


def _placed(spec: Manifest, pods: PodSettings, config: Config) -> Manifest:
    gpu = config.gpu
    has_gpus = any(gpu.resource_name in c["resources"].get("limits", {}) for c in _containers(spec))
    wanted = {
        "nodeSelector": {**pods.node_selector, **spec.get("nodeSelector", {})},
        "tolerations": [
            *spec.get("tolerations", ()),
            *(toleration_manifest(toleration) for toleration in pods.tolerations),
        ],
        "priorityClassName": spec.get("priorityClassName", pods.priority_class_name),
        "schedulerName": pods.scheduler_name,
        "runtimeClassName": gpu.runtime_class_name if has_gpus else "",
    }
    return spec | {name: value for name, value in wanted.items() if value}


def _with_variables(spec: Manifest, pods: PodSettings) -> Manifest:
    added = [{"name": variable.name, "value": variable.value} for variable in pods.env]
    return _each_container(spec, added, [])


def _with_certificates(spec: Manifest, config: Config) -> Manifest:
    bundle = config.ca_bundle
    if not bundle.config_map:
        return spec
    # Optional, because a pod that waits for a ConfigMap waits in silence: whoever reads the file
    # says that it is missing.
    items = [{"key": bundle.key, "path": CA_FILE}]
    source = {"name": bundle.config_map, "items": items, "optional": True}
    volumes = [*spec["volumes"], {"name": _CA_VOLUME, "configMap": source}]
    added = [{"name": name, "value": f"{CA_FOLDER}/{CA_FILE}"} for name in CA_VARIABLES]
    mount = {"name": _CA_VOLUME, "mountPath": CA_FOLDER, "readOnly": True}
    return _each_container(spec, added, [mount]) | {"volumes": volumes}


def _each_container(spec: Manifest, env: list[Manifest], mounts: list[Manifest]) -> Manifest:
    """Add to all containers; a variable that one has already stays as it is."""

    def extended(container: Manifest) -> Manifest:
        own = container.get("env", [])
        names = {variable["name"] for variable in own}
        more = [variable for variable in env if variable["name"] not in names]
        parts = {"env": [*more, *own], "volumeMounts": [*container["volumeMounts"], *mounts]}
        return container | {name: value for name, value in parts.items() if value}

    lists = {key: [extended(c) for c in spec[key]] for key in _CONTAINERS if key in spec}
    return spec | lists


_CONTAINERS = ("initContainers", "containers")


def _containers(spec: Manifest) -> list[Manifest]:
    return [container for key in _CONTAINERS for container in spec.get(key, ())]
