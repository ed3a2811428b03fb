"""Tokenizers that were SentencePiece models, as tokenizer.json has them, for llama.cpp.

tokenizer.json lists merges in the order in which they are done; llama.cpp has a score for each
piece and merges whatever neighbours make the piece with the highest score. Both do the same when
each way to make a piece is among the merges, as it is in files that were converted from
SentencePiece, and when spaces are marked alike. Called by `vocabulary`. Pure.
"""

from collections.abc import Collection
from typing import Any, Final

from tunesmith_trainer.gguf.families import refusal

_MARK: Final = "▁"
_REPLACE: Final = {"type": "Replace", "pattern": {"String": " "}, "content": _MARK}
_PREPEND: Final = {"type": "Prepend", "prepend": _MARK}
# Nothing is left to split on once spaces are replaced.
_SPLIT: Final = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious"}
UNUSED_SCORE: Final = -10000.0
ADDED_SCORE: Final = -1000.0


def adds_space_prefix(
    normalizer: dict[str, Any] | None, pre_tokenizer: dict[str, Any] | None
) -> bool:
    """Say whether a text gets a space in front; refuse what llama.cpp does not do to spaces."""
    steps = (normalizer or {}).get("normalizers", [normalizer])
    splits = pre_tokenizer is None or pre_tokenizer.items() >= _SPLIT.items()
    if splits and steps == [_REPLACE]:
        return False
    if splits and steps == [_PREPEND, _REPLACE]:
        return True
    raise refusal("the model's SentencePiece tokenizer treats spaces in a way that llama.cpp lacks")


def scores(
    vocabulary: dict[str, int], merges: list[tuple[str, str]], added: Collection[str]
) -> dict[str, float]:
    """Give the score of each piece: the earlier its merge, the higher.

    Raises UserError InvalidRun where llama.cpp could make a piece in a way that the tokenizer
    cannot. Pieces in `added` are found in the text before anything is merged; they have a score
    only where they are a merge's result as well.
    """
    ranks: dict[str, int] = {}
    for rank, (left, right) in enumerate(merges):
        ranks.setdefault(left + right, rank)
    known = set(merges)
    for piece in (*vocabulary, *added):
        if is_byte(piece):
            continue
        for cut in range(1, len(piece)):
            pair = piece[:cut], piece[cut:]
            if pair[0] in vocabulary and pair[1] in vocabulary and pair not in known:
                raise refusal(
                    f"the model's tokenizer never merges {pair[0]!r} and {pair[1]!r}, which "
                    "llama.cpp would"
                )
    return {
        piece: float(-ranks.get(piece, len(merges)))
        for piece in vocabulary
        if piece in ranks or piece not in added
    }


def is_byte(piece: str) -> bool:
    """Whether a piece stands for one byte of a character that has no piece: <0x0A>."""
    return len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">")
