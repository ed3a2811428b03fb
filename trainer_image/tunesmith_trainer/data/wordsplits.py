"""The ways in which byte-level tokenizers split text into words, told apart by their rules.

The names are llama.cpp's (llama-vocab.cpp, ``regex_exprs``). Pure; called by ``encoding``, which
may cut texts where all of these do, and by ``gguf.vocabulary``, which writes the name down.
"""

from typing import Any, Final

_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
# By the expressions that tokenizer.json has for them.
_BY_EXPRESSION: Final = {
    _WORDS + r"\p{N}{1,3}" + _REST: "llama-bpe",
    _WORDS + r"\p{N}" + _REST: "qwen2",
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*|\p{{N}}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+": "tekken",
}
_DIGITS: Final = {"type": "Digits", "individual_digits": True}
KNOWN: Final = ("gpt-2", "smollm", *_BY_EXPRESSION.values())


def name_of_splitting(
    normalizer: dict[str, Any] | None, pre_tokenizer: dict[str, Any] | None
) -> str | None:
    """Give the name for these two sections of a tokenizer.json; None for what is not known."""
    if (normalizer or {}).get("type", "NFC") != "NFC":
        return None
    before = pre_tokenizer or {}
    match before.get("pretokenizers", [before]):
        case [{"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}]:
            return "gpt-2"
        case [digits, {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}] if (
            digits == _DIGITS
        ):
            return "smollm"
        case [
            {"type": "Split", "pattern": {"Regex": str(text)}, "behavior": "Isolated", **others},
            {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
        ] if not others.get("invert"):
            return _BY_EXPRESSION.get(text)
    return None
