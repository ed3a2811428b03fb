"""Whether an adapter can be loaded into the pods of its base model.

An engine loads any adapter whose matrices have the right sizes, and answers nonsense with one of
another model of that family. What the adapter itself says (``base_model_name_or_path`` of peft's
adapter_config.json) is believed before what a ModelVersion says of it. And vLLM takes on no
tokens with an adapter: the base model in the pods has no embeddings of them. Reads that one file
and asks nobody. Called by ``fetching``.
"""

import re
from pathlib import Path

from pydantic import ValidationError

from tunesmith_api.meta import Status

_CONFIG = "adapter_config.json"
# A name on the Hub as peft writes it, with the owner or (gpt2) without one; no folder of a machine.
_HUB_NAME = re.compile(r"[A-Za-z0-9_][\w.-]*(/[\w.-]+)?")


class _AdapterConfig(Status):
    base_model_name_or_path: str = ""
    trainable_token_indices: object = None


def misfit(files: Path, base: str) -> str:
    """Say why an adapter cannot be served on the base model at the URI ``base``; else nothing.

    Only names of one kind can be compared, Hub with Hub and S3 with S3: the model of
    s3://mirror/llama/ may be that of hf://meta/llama. Where the kinds differ, or the adapter names
    none, the ModelVersion is believed.
    """
    try:
        config = _AdapterConfig.model_validate_json((files / _CONFIG).read_bytes())
    except (FileNotFoundError, ValidationError):
        return ""  # The engine refuses what is no adapter, and says so in its own words.
    if config.trainable_token_indices:
        return (
            "the adapter brings embeddings of new tokens (dataset.addTokens), which a running"
            " engine cannot load. Serve the job's Merged artifact, with spec.delivery Merged"
        )
    trained, serves = _place(config.base_model_name_or_path), _place(base)
    if trained is None or serves is None or trained[0] != serves[0] or trained == serves:
        return ""
    return (
        f"the adapter was trained for {config.base_model_name_or_path[:200]}, the pods serve"
        f" {base}. Correct spec.baseModel in a new ModelVersion, or offer an adapter of {base}"
    )


def _place(name: str) -> tuple[str, str] | None:
    """Give the kind of place and the name there; None for what means nothing elsewhere."""
    scheme, separator, rest = name.partition("://")
    if separator:
        rest = rest.strip("/")
        # The Hub's names are the same in all cases, keys in S3 are not.
        return (scheme, rest.casefold() if scheme == "hf" else rest)
    return ("hf", name.casefold()) if _HUB_NAME.fullmatch(name) else None
