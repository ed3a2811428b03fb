"""What every pod of ours has in common: the Pod Security Standard "restricted".

No Kubernetes credentials, no root, nothing writable but the volumes that are said.
"""

from collections.abc import Sequence

from tunesmith_operator.config import ServingConfig
from tunesmith_operator.resources.metadata import Manifest

_USER = 65532


def pod_basis(pull_secrets: Sequence[str]) -> Manifest:
    """Fields of a pod's spec."""
    basis: Manifest = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _USER,
            "runAsGroup": _USER,
            "fsGroup": _USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
    secrets = [{"name": secret} for secret in pull_secrets]
    return basis | ({"imagePullSecrets": secrets} if secrets else {})


def container_security() -> Manifest:
    """The security context of a container."""
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def container_basis(name: str, image: str, serving: ServingConfig) -> Manifest:
    """Fields of a container of a ModelDeployment."""
    return {
        "name": name,
        "image": image,
        "imagePullPolicy": serving.image_pull_policy,
        # What a program says last is what the operator reads.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": container_security(),
    }


def scratch(name: str, path: str) -> tuple[Manifest, Manifest]:
    """A volume that lives as long as the pod, and where it is mounted."""
    return {"name": name, "emptyDir": {}}, {"name": name, "mountPath": path}


def variables(values: dict[str, str]) -> list[Manifest]:
    """Environment variables."""
    return [{"name": name, "value": value} for name, value in values.items()]
