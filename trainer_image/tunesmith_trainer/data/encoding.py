"""Texts to tokens, each word once: what ``encode_batch`` gives, in a tenth of its time.

Byte-level tokenizers of the usual kinds begin a new word at each space behind something else, and
what stands in one word has no say in another's tokens. So texts are cut there, and the tokens of
words that were seen before are remembered. Where a tokenizer is of another kind, the only word is
the whole text. Called by ``tokenizing``.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate, filterfalse
from typing import Any, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray

from tunesmith_trainer.data.templates import Rendered
from tunesmith_trainer.data.wordsplits import name_of_splitting

# Spaces, then what is none; more of both where that ends in other white space, as no tokenizer
# need begin a word between a line end and a space.
_WORD = re.compile(r" *[^ ]+(?:(?<=\s) +[^ ]*)*| +")
_REMEMBERED_WORDS = 1 << 16
# Longer ones hardly come again. So memory is bounded: some 15 MB.
_LONGEST_WORD = 32
_TOKEN_BYTES = np.dtype(np.int32).itemsize


class Encoded(NamedTuple):
    """A row of tokens."""

    ids: NDArray[np.int32]
    """[tokens]"""
    supervised: NDArray[np.uint8]
    """[tokens], 1 where the token is to be learned"""


class Encoder:
    """Encodes rendered conversations with one tokenizer, adding no special tokens."""

    def __init__(self, backend: Any) -> None:
        """``backend`` is a ``tokenizers.Tokenizer`` that neither cuts nor fills up."""
        self._backend = backend
        self._has_words = _cuts_before_spaces(backend)
        self._known: dict[str, bytes] = {}
        """The ids of words, int32."""

    def encode(self, rendered: Sequence[Rendered]) -> list[Encoded]:
        """Give the tokens of each text; those that hold a character of its spans are marked."""
        texts = [self._words(text) for text, _ in rendered]
        ends = [list(accumulate(map(len, words))) for words in texts]
        edges = {
            words[number]
            for words, end, (_, spans) in zip(texts, ends, rendered, strict=True)
            for span in spans
            for place in span
            if (number := bisect_right(end, place)) < len(words)
        }
        if len(self._known) > _REMEMBERED_WORDS:
            self._known.clear()
        wanted = set(edges)
        for words in texts:
            wanted.update(filterfalse(self._known.__contains__, words))
        encodings = self._encodings(list(wanted))
        result = [
            self._encoded(words, end, spans, encodings)
            for words, end, (_, spans) in zip(texts, ends, rendered, strict=True)
        ]
        for word in wanted:
            if len(word) > _LONGEST_WORD:
                del self._known[word]
        return result

    def _words(self, text: str) -> list[str]:
        return _WORD.findall(text) if self._has_words else [text] if text else []

    def _encodings(self, words: list[str]) -> dict[str, Any]:
        """Encode words, and remember their tokens."""
        if not words:
            return {}
        made = self._backend.encode_batch(words, add_special_tokens=False)
        for word, encoding in zip(words, made, strict=True):
            self._known[word] = np.array(encoding.ids, np.int32).tobytes()
        return dict(zip(words, made, strict=True))

    def _encoded(
        self,
        words: list[str],
        ends: list[int],
        spans: Sequence[tuple[int, int]],
        encodings: dict[str, Any],
    ) -> Encoded:
        pieces = [self._known[word] for word in words]
        ids = np.frombuffer(b"".join(pieces), np.int32)
        marks = np.zeros(len(ids), np.uint8)

        def count(place: int, counted: Any) -> int:
            """Count the tokens in front of a character: those of earlier words, and its own's."""
            number = bisect_right(ends, place)
            before = sum(map(len, pieces[:number])) // _TOKEN_BYTES
            if number == len(words):
                return before
            word = words[number]
            return before + int(counted(encodings[word], place - ends[number] + len(word)))

        for start, end in spans:
            marks[count(start, _ended) : count(end, _begun)] = 1
        return Encoded(ids, marks)


def _ended(encoding: Any, place: int) -> int:
    """Count the tokens that end before a character, which may be within a token."""
    # Found one by one: all offsets as a list would take half as long as the encoding itself.
    first = _begun(encoding, place)
    while first > 0 and encoding.token_to_chars(first - 1)[1] > place:
        first -= 1
    return first


def _begun(encoding: Any, place: int) -> int:
    """Count the tokens that begin before a character."""
    return bisect_left(range(len(encoding)), (place,), key=encoding.token_to_chars)


def _cuts_before_spaces(backend: Any) -> bool:
    """Say whether all texts may be cut at each space behind something that is no white space."""
    sections = (_section(backend.normalizer), _section(backend.pre_tokenizer))
    # A token that was added is found before words are, in the whole text.
    is_apart = all(
        not (token.lstrip or token.rstrip or token.single_word or re.search(r"\s", token.content))
        for token in backend.get_added_tokens_decoder().values()
    )
    # With dropout a word has other tokens each time.
    is_fixed = not getattr(backend.model, "dropout", None)
    return name_of_splitting(*sections) is not None and is_apart and is_fixed


def _section(part: Any) -> dict[str, Any] | None:
    """Give a part of a tokenizer as it stands in tokenizer.json."""
    return None if part is None else orjson.loads(part.__getstate__())
