"""The model that is trained: base weights, precision, quantization, adapter.

Called by `recipe` and `export`. Loads safetensors only and never runs code that comes with a
model. Must not know about data or training.
"""

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from tunesmith_api.jobstatus import Architecture
from tunesmith_api.result import UserErrorReason
from tunesmith_api.training import Lora, LoraVariant, Method, Precision, QLora, Switch
from tunesmith_trainer.adapters import fuse
from tunesmith_trainer.data.newtokens import NONE, NewTokens
from tunesmith_trainer.embeddings import begin, fuse_rows, trained_rows
from tunesmith_trainer.logs import log
from tunesmith_trainer.outcome import UserError, shorten

_DTYPES = {
    Precision.FP32: torch.float32,
    Precision.FP16: torch.float16,
    Precision.BF16: torch.bfloat16,
}
ALL_LINEAR = "all-linear"


def padding_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Give a token to fill rows with. Any will do: what it predicts is never looked at."""
    for token in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if isinstance(token, int):
            return token
    return 0


def stored_dtype(path: Path) -> torch.dtype:
    """Give the type the base weights are published in; float32 where the model does not say."""
    found = AutoConfig.from_pretrained(path, trust_remote_code=False).dtype
    return found if isinstance(found, torch.dtype) else torch.float32


def load_base(
    path: Path,
    dtype: torch.dtype,
    device: torch.device,
    qlora: QLora | None = None,
    tokens: NewTokens = NONE,
) -> PreTrainedModel:
    """Load a causal language model's weights, in 4 bits if `qlora` is given.

    It gets rows for the new `tokens`, as they begin.

    Raises UserError ModelInvalid for files that are no such model, or not all of it: transformers
    would make up weights that are missing or have another shape.
    """
    quantization = qlora and BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=qlora.quantization.value.lower(),
        bnb_4bit_use_double_quant=qlora.double_quantization,
        bnb_4bit_compute_dtype=dtype,
    )
    try:
        model, loaded = AutoModelForCausalLM.from_pretrained(
            path,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            device_map={"": device},
            quantization_config=quantization,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise _invalid("model", error) from error
    _check_loaded(loaded)
    model.config.use_cache = False
    if qlora and device.type == "cpu":
        _keep_unpacked(model)
    begin(model, tokens)
    return model


def _keep_unpacked(model: nn.Module) -> None:
    """Keep bitsandbytes from packing 4-bit weights anew when a model is evaluated on a CPU.

    On CPUs with AVX512_BF16 it does so, for good, and what computes with them has no gradient:
    training that goes on after an evaluation would be given wrong ones, with a warning at most.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]


def load_trainable(
    path: Path,
    method: Method,
    precision: Precision,
    seed: int,
    device: torch.device,
    *,
    tokens: NewTokens = NONE,
) -> nn.Module:
    """Load the base model and make trainable what `method` says, and rows for new `tokens`.

    Frozen weights are kept in the precision of the computation. Trained ones are float32 always:
    a BF16 weight would swallow the small steps of late training.
    """
    dtype = _DTYPES[precision] if method.adapter else torch.float32
    model = load_base(path, dtype, device, method.qlora, tokens)
    if method.adapter is None:
        return model
    # New weights come from the global generator, so they depend on nothing but the seed.
    torch.manual_seed(seed)
    return add_adapter(model, method.adapter, tokens)


def computed_dtype(precision: Precision) -> torch.dtype:
    """Give torch's name of a precision, which must not be Auto."""
    return _DTYPES[precision]


def gathered_dtype(method: Method, precision: Precision) -> torch.dtype | None:
    """Give the type that the weights of a model in parts are gathered in; None leaves their own.

    Where all weights are trained they are kept in float32, which only the update needs: half of it
    has to be sent in 16 bits. Frozen ones are in the computation's precision already.
    """
    return _DTYPES[precision] if method.adapter is None else None


def add_adapter(model: PreTrainedModel, lora: Lora, tokens: NewTokens = NONE) -> nn.Module:
    """Freeze `model` and add the adapter, which trains the rows of new `tokens` as well.

    Raises UserError InvalidRun for unknown target modules and rows that it cannot train.
    """
    names = lora.target_modules
    if names != (ALL_LINEAR,):
        check_targets(model, names)
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=float(lora.dropout),
        target_modules=ALL_LINEAR if names == (ALL_LINEAR,) else list(names),
        bias="none",
        task_type="CAUSAL_LM",
        use_dora=lora.variant is LoraVariant.DORA,
        use_rslora=lora.variant is LoraVariant.RSLORA,
        trainable_token_indices=trained_rows(model, tokens, names),
    )
    try:
        adapted = get_peft_model(model, config)
    except ValueError as error:
        raise UserError(
            UserErrorReason.INVALID_RUN,
            f"The adapter does not fit the model: {error} Layers that can be targeted: "
            f"{_listed(linear_layers(model))}.",
        ) from error
    fuse(adapted)
    fuse_rows(adapted)
    return adapted


def check_targets(model: nn.Module, names: tuple[str, ...]) -> None:
    """Raise UserError InvalidRun if a name fits no layer.

    peft itself complains only when none of the names fits, and trains less than was asked for
    when one of them is misspelled.
    """
    layers = [name for name, _ in model.named_modules()]
    missing = [n for n in names if not any(f".{layer}".endswith(f".{n}") for layer in layers)]
    if missing:
        raise UserError(
            UserErrorReason.INVALID_RUN,
            f"targetModules names {_listed(missing)}, which the model does not have. Its layers "
            f"are {_listed(linear_layers(model))}; all-linear stands for all of them but the "
            "output layer.",
        )
    _check_tied(model, names)


def _check_tied(model: nn.Module, names: tuple[str, ...]) -> None:
    """Refuse to adapt one of two layers that share their weights: merged, it would change both."""
    layers = (model.get_input_embeddings(), model.get_output_embeddings())  # type: ignore[operator]
    if layers[1] is None or layers[0].weight is not layers[1].weight:
        return
    tied = [name for name, module in model.named_modules() if any(module is one for one in layers)]
    wrong = [n for n in names if any(f".{layer}".endswith(f".{n}") for layer in tied)]
    if wrong:
        raise UserError(
            UserErrorReason.INVALID_RUN,
            f"targetModules names {_listed(wrong)}, but the model's embeddings and output layer "
            "are one and the same weights: an adapter of one cannot be merged. Leave it out, or "
            "use method.full.",
        )


def linear_layers(model: nn.Module) -> list[str]:
    """Give the last parts of the names of all linear layers, sorted."""
    return sorted(
        {name.rsplit(".", 1)[-1] for name, m in model.named_modules() if isinstance(m, nn.Linear)}
    )


def set_gradient_checkpointing(model: nn.Module, wanted: Switch, *, is_full: bool) -> None:
    """Turn recomputing of activations on or off; Auto is on for full training on a GPU."""
    on_gpu = next(model.parameters()).device.type == "cuda"
    if wanted is Switch.ENABLED or (wanted is Switch.AUTO and is_full and on_gpu):
        # The re-entrant kind gives no gradients where the inputs need none, as with adapters.
        model.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]


def architecture(model: nn.Module) -> Architecture:
    """Describe the model. Of 4-bit weights, two are stored in each byte."""
    config = model.config.get_text_config()  # type: ignore[union-attr,operator]
    adapter = model.get_nb_trainable_parameters() if hasattr(model, "peft_config") else None  # type: ignore[operator]
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    everything = adapter[1] if adapter else sum(p.numel() for p in model.parameters())
    return Architecture(
        family=str(getattr(config, "model_type", "")),
        parameters=everything - trained if adapter else everything,
        trainable_parameters=trained,
        layers=int(getattr(config, "num_hidden_layers", 0) or 0),
        hidden_size=int(getattr(config, "hidden_size", 0) or 0),
        vocabulary_size=int(getattr(config, "vocab_size", 0) or 0),
        context_length=int(getattr(config, "max_position_embeddings", 0) or 0),
    )


def _listed(names: list[str]) -> str:
    return ", ".join(names[:40])


def _check_loaded(loaded: dict[str, Any]) -> None:
    """Raise UserError ModelInvalid unless the files had every weight that config.json tells of."""
    wrong = [
        f"{name} has the shape {list(found)} in place of {list(wanted)}"
        for name, found, wanted in sorted(loaded["mismatched_keys"])
    ]
    wrong += [f"{name} is missing" for name in sorted(loaded["missing_keys"])]
    if wrong:
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise UserError(
            UserErrorReason.MODEL_INVALID,
            f"The weights in model.uri are not those that its config.json tells of: {wrong[0]}"
            f"{more}. Put the files of one and the same model there.",
        )
    if unknown := sorted(loaded["unexpected_keys"]):
        # Such as the eyes of a model that sees: nothing that its language part would miss.
        log.warning("weights that are not used", count=len(unknown), first=unknown[0])


def _invalid(what: str, error: Exception) -> UserError:
    said = shorten(str(error), 400)
    if "trust_remote_code" in str(error):
        # Their advice is to run it.
        said = "its config.json (auto_map) asks for code that comes with the model."
    elif isinstance(error, SafetensorError):
        said = f"a .safetensors file is damaged or cut off ({said}); upload it again."
    return UserError(
        UserErrorReason.MODEL_INVALID,
        f"The base model's {what} cannot be loaded: {said} A model needs config.json, "
        "weights as safetensors and a tokenizer, and may not need code of its own.",
    )
