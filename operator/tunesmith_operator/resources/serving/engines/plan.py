"""What a pod needs to know of its engine, and where the fetcher leaves the model."""

from dataclasses import dataclass, field

MODELS_PATH = "/models"
FILES_PATH = f"{MODELS_PATH}/files"
"""The model's files, as they are in S3."""
ADAPTERS_PATH = f"{MODELS_PATH}/adapters"
"""Where the sidecar leaves adapters that come while the pod serves."""
DIGEST_PATH = f"{MODELS_PATH}/digest"
GGUF_PATH = f"{MODELS_PATH}/model.gguf"
"""Leads to the one GGUF file among them, whatever it is called."""


class UnservableError(ValueError):
    """The revision cannot be served by its engine; the message says what to change."""


@dataclass(frozen=True, slots=True)
class EnginePlan:
    """How an engine is started and asked."""

    image: str
    port: int
    ready_path: str
    """Answers with 200 once the model is loaded, and not before."""
    model: str
    """What the sidecar names to the engine; empty for an engine that needs no name, and for
    adapters, of which each has a name of its own."""
    command: tuple[str, ...] = ()
    """Empty: the image's own."""
    args: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    home: str = ""
    """A folder that the engine writes to, besides /tmp."""
    needs_gguf: bool = False
    needs_shared_memory: bool = False
    knows_logprobs: bool = True
    reads_s3: bool = False
    """Whether it loads a model from S3 itself, and must be told how."""
    holds_others: bool = False
    """Whether it has further models, which clients must neither see nor ask for."""
