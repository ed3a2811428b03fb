"""Rows to tokens, with marks at those that the loss is taken on, and what happens to long ones.

A conversation is one row. Plain text is learned whole, with the end token behind it, and a long
text becomes several rows; with objective Pretrain a conversation is such a text, as the template
shows it. A preference is two rows, the better answer first. Works in batches so that the tokenizer
uses all cores. Called by ``prepare`` for each split.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from tunesmith_api.dataset import TooLong
from tunesmith_api.objectives import Objective
from tunesmith_api.result import UserErrorReason
from tunesmith_api.templating import Prompt
from tunesmith_trainer.data.encoding import Encoded, Encoder
from tunesmith_trainer.data.formats import Canonical, Malformed, Message
from tunesmith_trainer.data.preferences import both_sides
from tunesmith_trainer.data.prompting import Prompting
from tunesmith_trainer.data.reading import Reading, Row
from tunesmith_trainer.data.templates import Rendered, Renderer
from tunesmith_trainer.outcome import UserError

_BATCH_ROWS = 512
_FEWEST_TOKENS = 2
"""What is shorter has no token that another one leads to."""
_LOGGED_HINT = (
    "Raise hyperparameters.maxSequenceLength, shorten the row, or set"
    " dataset.checks.tooLong to Drop or Truncate."
)


@dataclass
class Tokenizing:
    """What became of the rows, over all splits."""

    too_long: int = 0
    """Rows dropped or cut because of their length."""
    unsupervised: int = 0
    """Rows left out because nothing in them is learned, for another reason than length."""


class RowTokenizer:
    """Turns conversations and texts into rows of tokens."""

    def __init__(
        self,
        tokenizer: Any,
        limit: int,
        policy: TooLong,
        reading: Reading,
        prompting: Prompting | None = None,
        *,
        objective: Objective = Objective.SFT,
    ) -> None:
        self._renderer = Renderer(tokenizer)
        self._end_id: int | None = tokenizer.eos_token_id
        self._prompting = prompting or Prompting(Prompt())
        self._backend = tokenizer.backend_tokenizer
        # tokenizer.json may carry the settings of whoever saved it.
        self._backend.no_truncation()
        self._backend.no_padding()
        self._encoder = Encoder(self._backend)
        self._limit, self._policy, self._reading = limit, policy, reading
        self._objective = objective
        self.counts = Tokenizing()

    def tokenize(self, rows: Sequence[Row], on_rows: Callable[[int], None]) -> Iterator[Encoded]:
        """Tokenize the rows in their order; ``on_rows`` gets the count of each batch.

        Raises UserError (SequenceTooLong by policy, DatasetMalformed where the template refuses).
        """
        for first in range(0, len(rows), _BATCH_ROWS):
            batch = rows[first : first + _BATCH_ROWS]
            yield from self._batch(list(batch))
            on_rows(len(batch))

    def encode(self, conversations: Sequence[list[Message]]) -> list[Encoded | Malformed]:
        """Tokenize conversations, at any length; each answer without weight 0 is to be learned.

        The prompt of the run is put around them. Malformed stands where the template refuses one.
        """
        around = [self._prompting.around(messages) for messages in conversations]
        rendered = self._renderer.render(around)
        texts = [result for result in rendered if isinstance(result, Rendered)]
        encoded = iter(self._encoder.encode(texts))
        return [result if isinstance(result, Malformed) else next(encoded) for result in rendered]

    def _batch(self, rows: Sequence[Row]) -> Iterator[Encoded]:
        contents: list[Canonical] = [orjson.loads(row.content) for row in rows]
        conversations = [side for content in contents for side in _conversations(content)]
        results = iter(self.encode(conversations))
        plain = [c["text"] for c in contents if isinstance(c, dict) and "text" in c]
        texts = iter(self._backend.encode_batch_fast(plain) if plain else [])
        for row, content in zip(rows, contents, strict=True):
            found = [next(results) for _ in _conversations(content)]
            sides = [side for side in found if isinstance(side, Encoded)]
            if not found:
                yield from self._pieces(next(texts).ids)
            elif len(sides) < len(found):
                why = next(str(side) for side in found if isinstance(side, Malformed))
                self._reading.refuse(f"{row.file} line {row.line}", why, row.content)
            elif self._objective is Objective.PRETRAIN:
                yield from self._pieces(sides[0].ids)
            elif self._stays(row, sides):
                for ids, supervised in sides:
                    yield Encoded(ids[: self._limit], supervised[: self._limit])

    def _pieces(self, tokens: Iterable[int]) -> Iterator[Encoded]:
        """Cut a text into rows of at most the limit; all of their tokens are learned."""
        ids = list(tokens)
        if self._end_id is not None and ids[-1:] != [self._end_id]:
            ids.append(self._end_id)
        whole = np.array(ids, dtype=np.int32)
        for first in range(0, len(whole), self._limit):
            piece = whole[first : first + self._limit]
            if len(piece) >= _FEWEST_TOKENS:
                yield Encoded(piece, np.ones(len(piece), np.uint8))

    def _stays(self, row: Row, sides: Sequence[Encoded]) -> bool:
        """Say whether a conversation, or both of a preference, are to be trained on."""
        if not all(side.supervised.any() for side in sides):
            self.counts.unsupervised += 1
            return False
        longest = max(len(side.ids) for side in sides)
        if longest <= self._limit:
            return True
        if self._policy is TooLong.FAIL:
            raise UserError(
                UserErrorReason.SEQUENCE_TOO_LONG,
                f"{row.file} line {row.line} has {longest} tokens, the limit is {self._limit}."
                f" {_LOGGED_HINT}",
            )
        self.counts.too_long += 1
        cut = [side.supervised[: self._limit] for side in sides]
        return self._policy is TooLong.TRUNCATE and all(part.any() for part in cut)


def _conversations(content: Canonical) -> tuple[list[Message], ...]:
    """Give what of a row goes through the chat template: nothing of a text."""
    if isinstance(content, list):
        return (content,)
    return both_sides(content) if "chosen" in content else ()
