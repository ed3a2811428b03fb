"""What a training run is made of: model, method and hyperparameters; `dataset` has the data.

These sections are the run's inputs: a FineTuneJob holds them in its spec and the operator
hands them unchanged to the trainer in a TrainingRun, so a default exists only here.
"""

from enum import StrEnum
from typing import Annotated, Any

from pydantic import ConfigDict, Field

from tunesmith_api.meta import (
    NO_METADATA_SERVICE,
    DecimalText,
    ModelUri,
    Rule,
    SecretRef,
    ShortText,
    Spec,
    cel,
    exactly_one,
)

HELD_OUT_SUITE = "heldout"


class ModelSource(Spec):
    """The base model."""

    uri: ModelUri
    """Where the model is: hf://ORGANIZATION/NAME on the Hugging Face Hub, s3://BUCKET/PREFIX/,
    pvc://CLAIM/PATH, or builtin://tiny, a model of a few hundred thousand parameters that is made
    on the spot for trials. The files are those of a transformers model, weights as safetensors."""
    revision: ShortText = ""
    """Branch, tag or commit on the Hub. Empty means the newest; the one found is kept in
    status.resolved.modelRevision."""
    secret_ref: SecretRef | None = None
    """Secret for the Hub (HF_TOKEN) or for S3. Default: spec.s3.secretRef."""


class S3Options(Spec):
    """How to reach S3. Every value left out is taken from the operator's chart."""

    endpoint: Annotated[
        str,
        Field(
            max_length=512,
            pattern=r"^(https?://[^\s/]+/?)?$",
            json_schema_extra=cel(NO_METADATA_SERVICE),
        ),
    ] = ""
    """URL of the S3 endpoint. Empty: the chart's, and if that is empty too, Amazon's."""
    region: Annotated[str, Field(max_length=64)] = ""
    """Region of the bucket."""
    path_style: bool | None = None
    """Whether the bucket's name is in the path instead of the host name, as most servers other
    than Amazon's want it."""
    secret_ref: SecretRef | None = None
    """Secret with the keys AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY. Without one the pod's
    own identity is used (compute.serviceAccountName)."""


class QuantizationType(StrEnum):
    """How the frozen base weights are stored in QLoRA."""

    NF4 = "NF4"
    FP4 = "FP4"


class LoraVariant(StrEnum):
    """What the low-rank matrices change, and by how much."""

    STANDARD = "Standard"
    DORA = "DoRA"
    RSLORA = "RsLoRA"


class Lora(Spec):
    """Low-rank adapters on a frozen base model (Hu et al. 2021, arXiv:2106.09685)."""

    rank: Annotated[int, Field(ge=1, le=512)] = 16
    """Rank of the adapter matrices."""
    alpha: Annotated[int, Field(ge=1, le=2048)] = 32
    """Scale: the adapter's output is multiplied by alpha / rank."""
    variant: LoraVariant = LoraVariant.STANDARD
    """DoRA trains the length of each output's weights apart from their direction (Liu et al. 2024,
    arXiv:2402.09353): often better at low ranks, slower. RsLoRA multiplies by alpha / sqrt(rank)
    (Kalajdzievski 2023, arXiv:2312.03732), which suits high ranks."""
    dropout: DecimalText = Field(
        default="0.05",
        json_schema_extra=cel(
            Rule("double(self) >= 0.0 && double(self) < 1.0", "must be from 0 to below 1")
        ),
    )
    """Share of the adapter's inputs that is dropped in training, from 0 to below 1."""
    target_modules: Annotated[tuple[ShortText, ...], Field(min_length=1, max_length=32)] = (
        "all-linear",
    )
    """Names of the layers that get an adapter; all-linear stands for all but the output layer."""


class QLora(Lora):
    """LoRA on a base model stored in 4 bits (Dettmers et al. 2023, arXiv:2305.14314)."""

    quantization: QuantizationType = QuantizationType.NF4
    """Data type of the stored weights."""
    double_quantization: bool = True
    """Whether the quantization constants are quantized as well."""


class Full(Spec):
    """All weights are trained."""


class Method(Spec):
    """How the weights are changed. Exactly one member is set."""

    model_config = ConfigDict(json_schema_extra=cel(exactly_one("lora", "qlora", "full")))

    lora: Lora | None = None
    """Adapters on a frozen base model."""
    qlora: QLora | None = None
    """Adapters on a base model stored in 4 bits."""
    full: Full | None = None
    """All weights."""

    @property
    def adapter(self) -> Lora | None:
        """The adapter's settings, or None where all weights are trained."""
        return self.lora or self.qlora


class Scheduler(StrEnum):
    """Shape of the learning rate after warm-up."""

    LINEAR = "Linear"
    COSINE = "Cosine"
    COSINE_WITH_RESTARTS = "CosineWithRestarts"
    CONSTANT = "Constant"
    POLYNOMIAL = "Polynomial"
    INVERSE_SQRT = "InverseSqrt"
    WARMUP_STABLE_DECAY = "WarmupStableDecay"


class Optimizer(StrEnum):
    """Update rule."""

    ADAMW = "AdamW"
    ADAMW_8BIT = "AdamW8bit"
    ADAFACTOR = "Adafactor"


class Precision(StrEnum):
    """Data type of the computation."""

    AUTO = "Auto"
    FP32 = "FP32"
    FP16 = "FP16"
    BF16 = "BF16"


class Switch(StrEnum):
    """On, off, or decided by the trainer."""

    AUTO = "Auto"
    ENABLED = "Enabled"
    DISABLED = "Disabled"


class EarlyStopping(Spec):
    """Ends training when the validation loss no longer falls."""

    every_steps: Annotated[int, Field(ge=1, le=1_000_000)] = 50
    """Optimizer steps between two looks at the validation loss."""
    patience: Annotated[int, Field(ge=1, le=1000)] = 2
    """Looks in a row without improvement that end training."""
    min_delta: DecimalText = "0"
    """Smallest fall of the loss that counts as an improvement."""


def _positive(limit: str) -> dict[str, Any]:
    return cel(
        Rule(
            f"double(self) > 0.0 && double(self) <= {limit}", f"must be above 0 and at most {limit}"
        )
    )


def _from_zero(limit: str) -> dict[str, Any]:
    return cel(
        Rule(f"double(self) >= 0.0 && double(self) <= {limit}", f"must be between 0 and {limit}")
    )


class Hyperparameters(Spec):
    """How it is trained."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            Rule(
                "self.schedulerCycles == 2 || self.scheduler == 'CosineWithRestarts'",
                "schedulerCycles needs scheduler CosineWithRestarts",
            ),
            Rule(
                "double(self.schedulerPower) == 2.0 || self.scheduler == 'Polynomial'",
                "schedulerPower needs scheduler Polynomial",
            ),
            Rule(
                "double(self.schedulerDecayShare) == 0.2 || self.scheduler == 'WarmupStableDecay'",
                "schedulerDecayShare needs scheduler WarmupStableDecay",
            ),
        )
    )

    epochs: DecimalText = Field(default="3", json_schema_extra=_positive("1000.0"))
    """Passes over the training rows; fractions are allowed. maxSteps overrides it."""
    max_steps: Annotated[int, Field(ge=0, le=100_000_000)] = 0
    """Optimizer steps. 0 means as many as epochs gives."""
    learning_rate: DecimalText = Field(default="2e-4", json_schema_extra=_positive("1.0"))
    """Highest learning rate, reached after warm-up."""
    scheduler: Scheduler = Scheduler.COSINE
    """Shape of the learning rate after warm-up. Linear, Cosine (half a wave) and Polynomial fall to
    the end; CosineWithRestarts falls schedulerCycles times; InverseSqrt falls with the root of the
    steps; WarmupStableDecay stays and falls in a straight line at the end; Constant stays."""
    scheduler_cycles: Annotated[int, Field(ge=1, le=1000)] = 2
    """Of CosineWithRestarts: half waves, each as long as the others and from the highest rate on.
    1 is Cosine."""
    scheduler_power: DecimalText = Field(default="2", json_schema_extra=_positive("10.0"))
    """Of Polynomial: the rate is the share of the steps that is left to this power. 1 is Linear."""
    scheduler_decay_share: DecimalText = Field(default="0.2", json_schema_extra=_positive("1.0"))
    """Of WarmupStableDecay: the share of all steps over which the rate falls at the end."""
    final_learning_rate_share: DecimalText = Field(default="0", json_schema_extra=_from_zero("1.0"))
    """Share of learningRate that a falling rate ends at. Constant and InverseSqrt do not look at
    it."""
    warmup_steps: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """Optimizer steps over which the learning rate rises from 0."""
    optimizer: Optimizer = Optimizer.ADAMW
    """Update rule. AdamW8bit keeps its state in a quarter of the memory and needs a GPU;
    Adafactor keeps rows and columns of it only."""
    weight_decay: DecimalText = Field(default="0", json_schema_extra=_from_zero("1.0"))
    """Decoupled weight decay."""
    max_sequence_length: Annotated[int, Field(ge=8, le=1_048_576)] = 1024
    """Most tokens of a row, template included. Must fit the model's context."""
    per_device_batch_size: Annotated[int, Field(ge=1, le=4096)] = 8
    """Rows a device works on at once."""
    gradient_accumulation_steps: Annotated[int, Field(ge=1, le=4096)] = 1
    """Batches whose gradients make one optimizer step."""
    packing: Switch = Switch.AUTO
    """Whether the rows of a batch are laid one after the other instead of padded to the longest.
    No row sees another, and what rows begin with in common is computed once. The losses are the
    same. Disabled pads; otherwise models that cannot do it are padded too, and the log says why."""
    precision: Precision = Precision.AUTO
    """Data type of the computation; Auto is BF16 on GPUs that have it, else FP32."""
    gradient_checkpointing: Switch = Switch.AUTO
    """Whether activations are computed again instead of kept: less memory, about a fifth slower.
    Auto is on for full training on GPUs."""
    max_gradient_norm: DecimalText = Field(default="1.0", json_schema_extra=_from_zero("1000.0"))
    """Gradients are scaled down to this norm; 0 turns it off."""
    label_smoothing: DecimalText = Field(
        default="0",
        json_schema_extra=cel(
            Rule("double(self) >= 0.0 && double(self) < 1.0", "must be from 0 to below 1")
        ),
    )
    """Share of each target's probability that is spread over all tokens while training."""
    neftune_alpha: DecimalText = Field(default="0", json_schema_extra=_from_zero("1000.0"))
    """Strength of the noise on embeddings while training (NEFTune, Jain et al. 2023,
    arXiv:2310.05914), usually 5 to 15; 0 turns it off."""
    seed: Annotated[int, Field(ge=0, le=2_147_483_647)] = 17
    """Fixes the split, the order of the rows, dropout and new weights."""
    early_stopping: EarlyStopping | None = None
    """Ends training when the validation loss no longer falls; needs dataset.validation."""

    def halved(self) -> "Hyperparameters":
        """Give the same optimizer steps in less memory: half the rows at once, twice as often.

        Where half the rows do not make up a step, the largest number below that does: a step of
        other rows would be another training, which no checkpoint could go on with.
        """
        step = self.per_device_batch_size * self.gradient_accumulation_steps
        fewer = range(self.per_device_batch_size // 2, 1, -1)
        rows = next((number for number in fewer if step % number == 0), 1)
        update = {"per_device_batch_size": rows, "gradient_accumulation_steps": step // rows}
        return self.model_copy(update=update)
