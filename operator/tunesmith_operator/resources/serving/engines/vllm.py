"""vLLM, for safetensors on GPUs: merged models, and adapters on their base model.

Options as in vLLM's documentation of ``vllm serve`` and of LoRA adapters; --shutdown-timeout is
there since 0.18.
"""

from tunesmith_api.modeldeployment import Delivery
from tunesmith_api.revision import RevisionTemplate
from tunesmith_operator.config import ServingConfig
from tunesmith_operator.resources.serving.engines.plan import (
    FILES_PATH,
    EnginePlan,
    UnservableError,
)

PORT = 8080
_HOME = "/home/engine"
_ENVIRONMENT = {
    # The user id has no entry in /etc/passwd, where torch would look for a name and a home.
    "USER": "engine",
    "HOME": _HOME,
    "TORCHINDUCTOR_CACHE_DIR": f"{_HOME}/.cache/torchinductor",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
_LORA_RANK = 64
"""Ranks up to this one are taken; vLLM's own default is 16. It costs memory, so not 512, which is
the highest of the values that it knows; whoever needs it says so in engine.args."""

_BATCHED = 2
"""Adapters that are answered with in one batch: stable and canary. Each costs memory of the GPU."""
_LOADED = 4
"""Adapters that are kept in memory: the former stable, and one that is on its way out, too."""


def plan_vllm(template: RevisionTemplate, model: str, serving: ServingConfig) -> EnginePlan:
    """Give the plan. Raises UnservableError for a base model that vLLM cannot load."""
    engine = template.engine
    is_adapter = template.delivery is Delivery.ADAPTER
    files, env = (
        (_base(template, model), {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"})
        if is_adapter
        else ([FILES_PATH, f"--served-model-name={model}"], {"HF_HUB_OFFLINE": "1"})
    )
    parallel = [f"--tensor-parallel-size={engine.gpus}"] if engine.gpus else []
    # The engine is told to end only after the sidecar has drained; this is for a sidecar that died.
    shutdown = max(serving.drain_seconds, engine.request_timeout_seconds)
    return EnginePlan(
        image=engine.image or serving.engine_images.vllm,
        port=PORT,
        ready_path="/v1/models",
        model=model,
        command=("vllm", "serve"),
        args=(
            *files,
            "--host=127.0.0.1",
            f"--port={PORT}",
            *parallel,
            f"--shutdown-timeout={shutdown}",
            # Streams say how many tokens they were; the sidecar counts them.
            "--enable-force-include-usage",
            *engine.args,
        ),
        env=_ENVIRONMENT | env,
        home=_HOME,
        needs_shared_memory=True,
        reads_s3=is_adapter and template.base_model_uri.startswith("s3://"),
    )


def _base(template: RevisionTemplate, model: str) -> list[str]:
    """Serve the base model from where it is; the sidecar has adapters loaded while it serves."""
    scheme, _, rest = template.base_model_uri.partition("://")
    revision = template.base_model_revision
    match scheme:
        case "hf":
            base = [rest.strip("/"), *([f"--revision={revision}"] if revision else [])]
        case "s3":
            base = [template.base_model_uri, "--load-format=runai_streamer"]
        case _:
            raise UnservableError(
                f"the base model {template.base_model_uri or '(unknown)'} cannot be loaded by"
                " serving pods: with delivery Adapter it must be hf:// or s3://. Use Merged"
            )
    return [
        *base,
        f"--served-model-name={model}-base",
        "--enable-lora",
        f"--max-lora-rank={_LORA_RANK}",
        f"--max-loras={_BATCHED}",
        f"--max-cpu-loras={_LOADED}",
    ]
