"""What a run gives and where it is put: artifacts, the ModelVersion, a repository of the Hub.

Run inputs like those in :mod:`tunesmith_api.training`.
"""

from enum import StrEnum
from typing import Annotated, Final

from pydantic import ConfigDict, Field

from tunesmith_api.meta import (
    ChannelName,
    OptionalVersion,
    OutputUri,
    Rule,
    SecretRef,
    Spec,
    cel,
    section,
)
from tunesmith_api.tracking import Tracking

OptionalModel = Annotated[str, Field(max_length=50, pattern=r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?)?$")]


class ArtifactName(StrEnum):
    """A form of the result."""

    ADAPTER = "Adapter"
    MERGED = "Merged"
    GGUF = "GGUF"
    INT8 = "Int8"
    OLLAMA = "Ollama"
    PACKAGE = "Package"


class GgufQuantization(StrEnum):
    """How a GGUF file stores matrices. Vectors, such as norms and biases, stay float32."""

    F16 = "F16"
    BF16 = "BF16"
    Q8_0 = "Q8_0"
    Q4_0 = "Q4_0"
    Q6_K = "Q6_K"
    Q5_K_M = "Q5_K_M"
    Q4_K_M = "Q4_K_M"


K_QUANTS: Final = frozenset(
    {GgufQuantization.Q6_K, GgufQuantization.Q5_K_M, GgufQuantization.Q4_K_M}
)
"""Made by llama.cpp's llama-quantize; the others by the trainer itself."""


class Gguf(Spec):
    """How the GGUF file is made."""

    quantization: GgufQuantization = GgufQuantization.Q8_0
    """F16 and BF16: 16 bits a weight. Q8_0: 8.5 bits, close to the original. Q4_0: 4.5 bits (8.5
    for the token embeddings and the output layer), smallest and least exact. Q6_K, Q5_K_M and
    Q4_K_M: about 6.6, 5.7 and 4.9 bits, better than others of their size; only with a trainer's
    image that has llama-quantize, refused before training otherwise."""


HubRepository = Annotated[
    str,
    Field(
        max_length=193,
        # Of each part the Hub takes 96 characters, without -- and .. in them.
        pattern=r"^[A-Za-z0-9]([A-Za-z0-9]|[-_.][A-Za-z0-9_])*/[A-Za-z0-9_]([A-Za-z0-9_]|[-.][A-Za-z0-9_])*$",
    ),
]


class HuggingFace(Spec):
    """A repository of the Hugging Face Hub that the result is pushed to."""

    repository: HubRepository
    """OWNER/NAME. Made in the prepare stage if it is not there, so that a token that may not write
    is found before training."""
    private: bool = True
    """Whether a repository that is made is private. One that is there stays as it is."""
    secret_ref: SecretRef | None = None
    """Secret with the key HF_TOKEN, a token that may write. Default: spec.model.secretRef."""
    artifact: ArtifactName = ArtifactName.MERGED
    """Which of output.artifacts is pushed. It is pushed when training has ended, whatever the gates
    say of it."""


_GGUF_WANTED = Rule(
    "!has(self.gguf) || self.artifacts.exists(a, a in ['GGUF', 'Ollama'])",
    "output.gguf needs GGUF or Ollama in output.artifacts",
)
_PUSHED_MADE = Rule(
    "!has(self.huggingFace) || self.artifacts.exists(a, a == self.huggingFace.artifact)",
    "output.huggingFace.artifact must be one of output.artifacts",
)


class ModelVersionRequest(Spec):
    """How the ModelVersion is called, and which channels it is put into."""

    model: OptionalModel = ""
    """Name of the model the version belongs to. Empty: the name of the job."""
    version: OptionalVersion = ""
    """Version within the model. Empty: the next whole number. The ModelVersion is called
    MODEL-vVERSION, which may have at most 63 characters."""
    tags: Annotated[tuple[ChannelName, ...], Field(max_length=8)] = Field(
        default=(), json_schema_extra={"x-kubernetes-list-type": "set"}
    )
    """Channels that the version is put into: a ModelDeployment that follows the model and one of
    them rolls it out. deployTo adds the channel of the deployment it names. Default: none."""


class Output(Spec):
    """Where the result goes."""

    model_config = ConfigDict(json_schema_extra=cel(_GGUF_WANTED, _PUSHED_MADE))

    uri: OutputUri
    """s3://BUCKET/PREFIX/. The run writes below PREFIX/JOB-UID8/ (the job's name and the
    first eight characters of its uid) and nowhere else."""
    artifacts: Annotated[tuple[ArtifactName, ...], Field(min_length=1, max_length=6)] = Field(
        default=(ArtifactName.MERGED,), json_schema_extra={"x-kubernetes-list-type": "set"}
    )
    """Merged: a complete model as safetensors. Adapter: only the adapter's weights. GGUF: a
    complete model in one file for llama.cpp; for Llama, Mistral, Qwen2, Qwen3, Gemma 1 to 3 (text)
    and GPT-2. Ollama: the same with a Modelfile. Int8: a complete model whose matrices have 8 bits
    (bitsandbytes). Package: a complete model with a program that chats, requirements and README."""
    gguf: Gguf | None = None
    """How the GGUF file is made. Only with GGUF or Ollama in artifacts."""
    hugging_face: HuggingFace | None = None
    """A repository of the Hugging Face Hub to push the result to. Absent: none."""
    model_version: ModelVersionRequest = Field(
        default_factory=ModelVersionRequest, json_schema_extra=section()
    )
    """How the ModelVersion is called, and which channels it is put into."""
    tracking: Tracking | None = None
    """Services that the learning curve is sent to. Absent: none. TensorBoard's file is always
    written, below tensorboard/."""
    secret_ref: SecretRef | None = None
    """S3 credentials for the result. Default: spec.s3.secretRef."""
