"""Texts to tokens, each word once: what ``encode_batch`` gives, in a tenth of its time.

Byte-level tokenizers of the usual kinds begin a new word at each space behind something else and
around each special token, and what stands in one word has no say in another's tokens. So texts are
cut there, and the tokens of words that were seen before are remembered. Where a tokenizer is of
another kind, the only word is the whole text. Called by ``tokenizing``, also in processes of their
own: nothing here knows of rows, settings or errors.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, filterfalse
from typing import Any, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray
from tokenizers import Tokenizer

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


class Texts(NamedTuple):
    """What is encoded at once."""

    rendered: Sequence[Rendered]
    """Conversations; they get no special tokens but those that they show."""
    plain: Sequence[str]
    """Texts; they get what the tokenizer puts around one, and are learned whole."""


class Joined(NamedTuple):
    """Rows of tokens one after the other: two large pieces go between processes at no cost."""

    ids: NDArray[np.int32]
    supervised: NDArray[np.uint8]
    lengths: list[int]

    @classmethod
    def of(cls, rows: Sequence[Encoded]) -> "Joined":
        """Join rows."""
        return cls(
            np.concatenate([np.zeros(0, np.int32), *(row.ids for row in rows)]),
            np.concatenate([np.zeros(0, np.uint8), *(row.supervised for row in rows)]),
            [len(row.ids) for row in rows],
        )

    def rows(self) -> Iterator[Encoded]:
        """Give each as a view."""
        for end, length in zip(accumulate(self.lengths), self.lengths, strict=True):
            yield Encoded(self.ids[end - length : end], self.supervised[end - length : end])


def encoding_with(tokenizer: str) -> Callable[[Texts], Joined]:
    """Give :meth:`Encoder.encode_all` of a tokenizer.json's text."""
    return Encoder(Tokenizer.from_str(tokenizer)).encode_all


class Encoder:
    """Encodes texts with one tokenizer."""

    def __init__(self, backend: Any) -> None:
        """``backend`` is a ``tokenizers.Tokenizer`` that neither cuts nor fills up."""
        self._backend = backend
        self._has_words = _cuts_before_spaces(backend)
        self._special = _apart_from_all(backend)
        self._known: dict[str, bytes] = {}
        """The ids of words, int32."""

    def encode_all(self, texts: Texts) -> Joined:
        """Give the tokens of the rendered texts, then those of the plain ones."""
        rows = self.encode(texts.rendered) if texts.rendered else []
        if texts.plain:
            for encoding in self._backend.encode_batch_fast(texts.plain):
                ids = np.array(encoding.ids, np.int32)
                rows.append(Encoded(ids, np.ones(len(ids), np.uint8)))
        return Joined.of(rows)

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
            and place > end[number] - len(words[number])
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
        if not self._has_words:
            return [text] if text else []
        if self._special is None:
            return _WORD.findall(text)
        words: list[str] = []
        for number, piece in enumerate(self._special.split(text)):
            words.extend([piece] if number % 2 else _WORD.findall(piece))
        return words

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
            inside = place - ends[number] + len(word)
            return before + (int(counted(encodings[word], inside)) if inside else 0)

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


def _apart_from_all(backend: Any) -> re.Pattern[str] | None:
    """Give an expression for the tokens that are found before all else, in the text as it is."""
    # The others are looked for in normalized text.
    tokens = [t.content for t in backend.get_added_tokens_decoder().values() if not t.normalized]
    if not tokens or backend.encode_special_tokens:
        return None
    # As the tokenizer does, take the longest where several begin.
    longest_first = sorted(tokens, key=len, reverse=True)
    return re.compile(f"({'|'.join(map(re.escape, longest_first))})")


def _section(part: Any) -> dict[str, Any] | None:
    """Give a part of a tokenizer as it stands in tokenizer.json."""
    return None if part is None else orjson.loads(part.__getstate__())
