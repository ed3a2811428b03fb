"""Jobs to plan on."""

from typing import Any

from tunesmith_api.finetunejob import FineTuneJob
from tunesmith_operator.config import Config

CONFIG = Config.model_validate(
    {
        "trainerImage": "registry/trainer:1",
        "s3": {"endpoint": "http://chart:9000", "region": "eu", "secretName": "chart-s3"},
        "gpu": {
            "types": {
                "A100": {"nvidia.com/gpu.product": ["A100-40", "A100-80"]},
                "L4": {"nvidia.com/gpu.product": "NVIDIA-L4"},
            }
        },
        "kueue": {"enabled": True},
        "allowedServiceAccounts": ["trainer"],
    }
)


def make_job(labels: dict[str, str] | None = None, **spec: Any) -> FineTuneJob:
    """Give a job with the sections of ``spec`` over a minimal one."""
    return FineTuneJob.model_validate(
        {
            "metadata": {
                "name": "support",
                "namespace": "team",
                "uid": "12345678-aaaa",
                "generation": 1,
                "labels": labels or {},
            },
            "spec": {
                "model": {"uri": "hf://org/model"},
                "dataset": {"train": {"uri": "s3://acme/t.jsonl"}},
                "output": {"uri": "s3://acme/models"},
                **spec,
            },
        }
    )
