"""ModelDeployments to build from."""

from typing import Any

from tunesmith_api.modeldeployment import Delivery, ModelDeployment
from tunesmith_api.revision import ModelFiles, RevisionTemplate
from tunesmith_operator.config import Config
from tunesmith_operator.resources.serving.record import Revision

DIGEST = "sha256:" + "a" * 64
MODEL_DIGEST = "sha256:" + "b" * 64
SERVING = Config.model_validate(
    {
        "trainerImage": "registry/trainer:1",
        "s3": {"endpoint": "http://chart:9000", "pathStyle": True, "secretName": "chart-s3"},
        "gpu": {"types": {"L4": {"nvidia.com/gpu.product": "NVIDIA-L4"}}},
        "serving": {"image": "registry/operator:1", "imagePullSecrets": ["pull"]},
    }
)


def make_deployment(name: str = "support", **spec: Any) -> ModelDeployment:
    """Give a deployment with the sections of ``spec`` over a minimal one."""
    return ModelDeployment.model_validate(
        {
            "metadata": {"name": name, "namespace": "team", "uid": "12345678-dddd"},
            "spec": {"source": {"modelVersion": "support-v1"}, **spec},
        }
    )


def make_revision(deployment: ModelDeployment, **template: Any) -> Revision:
    """Give the seventh revision; ``template`` replaces parts of it."""
    made = RevisionTemplate(
        version="support-v1",
        model=ModelFiles(uri="s3://acme/models/support/gguf/attempt-2/", digest=MODEL_DIGEST),
        delivery=deployment.spec.delivery,
        engine=deployment.spec.engine,
        access=deployment.spec.access,
        conversation_log=deployment.spec.conversation_log,
        s3=deployment.spec.s3,
    ).model_copy(update=template)
    return Revision(f"{deployment.metadata.name}-{'a' * 10}", 7, DIGEST, made)


def make_adapter(deployment: ModelDeployment, base: str, base_revision: str = "abc") -> Revision:
    """Give a revision that is an adapter on ``base``."""
    return make_revision(
        deployment,
        delivery=Delivery.ADAPTER,
        base_model_uri=base,
        base_model_revision=base_revision,
    )
