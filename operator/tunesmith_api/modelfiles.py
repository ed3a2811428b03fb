"""Which files of a transformers model count, and what names a model in S3 that has no manifest.

The trainer takes these files of a base model and no others, and writes the digest of their listing
down as its revision. The fetcher of serving pods compares it before an adapter is loaded. Pure.
"""

import hashlib
from collections.abc import Iterable

_CONFIG = frozenset({"config.json", "generation_config.json"})
_TOKENIZER = frozenset(
    {
        "tokenizer.json",
        "tokenizer_config.json",
        "tokenizer.model",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.json",
        "vocab.txt",
        "merges.txt",
        "chat_template.json",
        "chat_template.jinja",
    }
)


def wanted_file(name: str, whole: bool) -> bool:
    """Say whether a file of a model is taken; the weights only for the ``whole`` model."""
    if name in _CONFIG or name in _TOKENIZER:
        return True
    return whole and (is_weights(name) or name == "model.safetensors.index.json")


def is_weights(name: str) -> bool:
    """Say whether a file holds weights that are taken."""
    # Mistral's repositories hold the same weights twice; consolidated.* is the other format's.
    return name.endswith(".safetensors") and "/" not in name and not name.startswith("consolidated")


def listing_digest(files: Iterable[tuple[str, int, str]]) -> str:
    """Give the sha256 over name, size and ETag of each file, in whichever order they come."""
    lines = (f"{name} {size} {etag}\n" for name, size, etag in sorted(files))
    return "sha256:" + hashlib.sha256("".join(lines).encode()).hexdigest()
