"""Rows to tokens, with marks at those that the loss is taken on, and what happens to long ones.

A conversation is one row. Plain text is learned whole, with the end token behind it, and a long
text becomes several rows; with objective Pretrain a conversation is such a text, as the template
shows it. A preference is two rows, the better answer first. Works in batches: of many, texts are
encoded in processes of their own, while templates, counts and errors stay here, in the order of
rows. Called by ``prepare`` for each split.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray

from tunesmith_api.dataset import TooLong
from tunesmith_api.objectives import Objective
from tunesmith_api.result import UserErrorReason
from tunesmith_api.templating import Prompt
from tunesmith_trainer.data.encoding import Encoded, Encoder, Joined, Texts, encoding_with
from tunesmith_trainer.data.formats import Canonical, Message
from tunesmith_trainer.data.preferences import both_sides
from tunesmith_trainer.data.prompting import Prompting
from tunesmith_trainer.data.reading import Reading, Row
from tunesmith_trainer.data.samples import LeftOut
from tunesmith_trainer.data.spreading import Spread
from tunesmith_trainer.data.templates import Rendered, Renderer
from tunesmith_trainer.data.texts import row_texts
from tunesmith_trainer.data.values import Malformed
from tunesmith_trainer.outcome import UserError

_BATCH_ROWS = 512
_BATCH_BYTES = 1 << 19
"""Of rows' contents: what is under way at a time is bounded, however long rows are."""
_ROWS_FOR_WORKERS = 8192
"""A worker is up when some 5,000 rows have been done without it: fewer need none."""
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


class _Batch(NamedTuple):
    """Rows, and what is to be encoded of them."""

    rows: Sequence[Row]
    shown: list[list[Rendered | Malformed]]
    """Of each row what goes through the chat template: nothing of a text."""
    plain: list[str]
    """The texts."""

    @property
    def texts(self) -> Texts:
        shown = (side for sides in self.shown for side in sides)
        return Texts([side for side in shown if isinstance(side, Rendered)], self.plain)


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
        workers: int = 0,
    ) -> None:
        """``workers`` is how many processes may help."""
        self._renderer = Renderer(tokenizer)
        self._end: str | None = tokenizer.eos_token
        self._end_id: int | None = tokenizer.eos_token_id
        self._prompting = prompting or Prompting(Prompt())
        self._backend = tokenizer.backend_tokenizer
        # tokenizer.json may carry the settings of whoever saved it.
        self._backend.no_truncation()
        self._backend.no_padding()
        self._encoder = Encoder(self._backend)
        self._limit, self._policy, self._reading = limit, policy, reading
        self._objective, self._workers = objective, workers
        self.counts = Tokenizing()

    def tokenize(self, rows: Sequence[Row], on_rows: Callable[[int], None]) -> Iterator[Encoded]:
        """Tokenize the rows in their order; ``on_rows`` gets the count of each batch.

        Raises UserError (SequenceTooLong by policy, DatasetMalformed where the template refuses).
        """
        begun: deque[_Batch] = deque()

        def texts() -> Iterator[Texts]:
            for batch in map(self._shown, _batches(rows)):
                begun.append(batch)
                yield batch.texts

        workers = self._workers if len(rows) >= _ROWS_FOR_WORKERS else 0
        elsewhere = partial(encoding_with, self._backend.to_str() if workers else "")
        with Spread(self._encoder.encode_all, elsewhere, workers) as spread:
            for joined in spread.map(texts()):
                batch = begun.popleft()
                yield from self._trained_on(batch, joined)
                on_rows(len(batch.rows))

    def encode(self, conversations: Sequence[list[Message]]) -> list[Encoded | Malformed]:
        """Tokenize conversations, at any length; each answer without weight 0 is to be learned.

        The prompt of the run is put around them. Malformed stands where the template refuses one.
        """
        shown = self._render(conversations)
        texts = [result for result in shown if isinstance(result, Rendered)]
        encoded = iter(self._encoder.encode(texts))
        return [result if isinstance(result, Malformed) else next(encoded) for result in shown]

    def _render(self, conversations: Sequence[list[Message]]) -> list[Rendered | Malformed]:
        return self._renderer.render([self._prompting.around(each) for each in conversations])

    def _shown(self, rows: Sequence[Row]) -> _Batch:
        contents: list[Canonical] = [orjson.loads(row.content) for row in rows]
        sides = [_conversations(content) for content in contents]
        shown = map(self._as_learned, self._render([side for both in sides for side in both]))
        plain = [c["text"] for c in contents if isinstance(c, dict) and "text" in c]
        return _Batch(rows, [[next(shown) for _ in both] for both in sides], plain)

    def _as_learned(self, shown: Rendered | Malformed) -> Rendered | Malformed:
        """Give a conversation that is learned whole up to its end token, where it has one.

        Many templates put a line break behind it. Left there, it would be taken for a text that
        has not ended yet.
        """
        if self._objective is not Objective.PRETRAIN or isinstance(shown, Malformed):
            return shown
        text = shown.text.rstrip()
        is_ended = self._end and text.endswith(self._end)
        return Rendered(text, shown.spans) if is_ended else shown

    def _trained_on(self, batch: _Batch, joined: Joined) -> Iterator[Encoded]:
        """Give what is learned of the rows of a batch, given all of its texts' tokens."""
        encoded = list(joined.rows())
        count = len(batch.texts.rendered)
        conversations, texts = iter(encoded[:count]), iter(encoded[count:])
        for row, shown in zip(batch.rows, batch.shown, strict=True):
            sides = [next(conversations) for side in shown if isinstance(side, Rendered)]
            if not shown:
                yield from self._pieces(next(texts).ids)
            elif len(sides) < len(shown):
                why = next(str(side) for side in shown if isinstance(side, Malformed))
                self._reading.refuse(row.file, row.line, why, row.content)
            elif self._objective is Objective.PRETRAIN:
                yield from self._pieces(sides[0].ids)
            elif self._stays(row, sides):
                for ids, supervised in sides:
                    yield Encoded(ids[: self._limit], supervised[: self._limit])

    def _pieces(self, ids: NDArray[np.int32]) -> Iterator[Encoded]:
        """Cut a text into rows of at most the limit; all of their tokens are learned."""
        if self._end_id is not None and ids[-1:].tolist() != [self._end_id]:
            ids = np.append(ids, np.int32(self._end_id))
        for first in range(0, len(ids), self._limit):
            piece = ids[first : first + self._limit]
            if len(piece) >= _FEWEST_TOKENS:
                yield Encoded(piece, np.ones(len(piece), np.uint8))

    def _stays(self, row: Row, sides: Sequence[Encoded]) -> bool:
        """Say whether a conversation, or both of a preference, are to be trained on."""
        if not all(side.supervised.any() for side in sides):
            self.counts.unsupervised += 1
            return self._left_out(LeftOut.UNSUPERVISED, row)
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
        if self._policy is TooLong.TRUNCATE and all(part.any() for part in cut):
            return True
        return self._left_out(LeftOut.TOO_LONG, row)

    def _left_out(self, reason: LeftOut, row: Row) -> bool:
        samples = self._reading.samples
        samples.add(reason, row.file, row.line, lambda: row_texts(row.content))
        return False


def _conversations(content: Canonical) -> tuple[list[Message], ...]:
    """Give what of a row goes through the chat template: nothing of a text."""
    if isinstance(content, list):
        return (content,)
    return both_sides(content) if "chosen" in content else ()


def _batches(rows: Iterable[Row]) -> Iterator[list[Row]]:
    batch: list[Row] = []
    size = 0
    for row in rows:
        batch.append(row)
        size += len(row.content)
        if len(batch) == _BATCH_ROWS or size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
