"""llama-server of llama.cpp, for GGUF with and without GPUs.

Options as in tools/server/README.md of llama.cpp. It takes the chat template out of the file.
"""

from decimal import ROUND_CEILING, Decimal

from tunesmith_api.engine import Engine
from tunesmith_api.revision import RevisionTemplate
from tunesmith_operator.config import ServingConfig
from tunesmith_operator.resources.serving.engines.plan import GGUF_PATH, EnginePlan

PORT = 8080
_MOST_SLOTS = 8
"""More would only make each answer slower; further requests wait in the engine."""
_TOKENS_PER_SLOT = 4096
_LEAST_TOKENS = 8192
_MOST_HTTP_THREADS = 1024


def plan_llama_cpp(template: RevisionTemplate, model: str, serving: ServingConfig) -> EnginePlan:
    """Give the plan. The program is the image's entrypoint: where it lies differs."""
    engine = template.engine
    images = serving.engine_images
    default = images.llama_cpp_gpu if engine.gpus else images.llama_cpp
    return EnginePlan(
        image=engine.image or default,
        port=PORT,
        # It lists its models before it has loaded them.
        ready_path="/health",
        model=model,
        args=(*_arguments(engine, model), *engine.args),
        needs_gguf=True,
    )


def _arguments(engine: Engine, model: str) -> list[str]:
    slots = min(engine.max_concurrent_requests, _MOST_SLOTS)
    tokens = max(_LEAST_TOKENS, slots * _TOKENS_PER_SLOT)
    # A request holds a thread while it waits, and the probe needs one, too.
    http_threads = min(engine.max_concurrent_requests + 8, _MOST_HTTP_THREADS)
    arguments = [
        f"--model={GGUF_PATH}",
        f"--alias={model}",
        "--host=127.0.0.1",
        f"--port={PORT}",
        f"--parallel={slots}",
        # One buffer for all slots: a long conversation may use what others leave. A slot never
        # gets more than the model was trained for.
        "--kv-unified",
        f"--ctx-size={tokens}",
        f"--threads-http={http_threads}",
        # Up to 8 GiB of old prompts by default, which no memory limit was sized for.
        "--cache-ram=0",
    ]
    if engine.gpus:
        arguments.append("--n-gpu-layers=999")
    if threads := _threads(engine):
        arguments.append(f"--threads={threads}")
    # An option and its value are one word here, two in the documentation.
    return [word for argument in arguments for word in argument.split("=", 1)]


def _threads(engine: Engine) -> int:
    """Threads that the CPU limit pays for; 0 leaves it to the engine, which counts the node's."""
    limit = engine.resources.limits.get("cpu", "")
    if not limit:
        return 0
    cores = Decimal(limit[:-1]) / 1000 if limit.endswith("m") else Decimal(limit)
    return max(1, int(cores.to_integral_value(ROUND_CEILING)))
