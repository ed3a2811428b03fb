"""Tokens that a run adds to its base model's tokenizer: dataset.addTokens and addSpecialTokens.

Says which texts become tokens, under which ids, and of which of the old tokens they were made
before; what a model makes of that is ``embeddings``' business. Needs no weights, so what is wrong
with the lists is found in the prepare stage. Called by ``templates``.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Regex, decoders, pre_tokenizers

from tunesmith_api.dataset import Dataset
from tunesmith_api.report import NewToken
from tunesmith_api.result import UserErrorReason
from tunesmith_trainer.outcome import UserError, shorten

_PROBE = "ZQXJ"
_NAMED = 5
"""Tokens named in a sentence."""


@dataclass(frozen=True)
class NewTokens:
    """What was added. The lists are in one order, that of the ids."""

    texts: tuple[str, ...] = ()
    ids: tuple[int, ...] = ()
    pieces: tuple[tuple[int, ...], ...] = ()
    """The tokens that each text was made of before."""
    special: frozenset[str] = frozenset()
    """Those of the texts that are no part of an answer that is shown."""
    known: tuple[str, ...] = ()
    """Texts that were asked for and were one token already: nothing was changed about them."""

    def __bool__(self) -> bool:
        return bool(self.ids)

    @property
    def rows(self) -> int:
        """Rows that embeddings need for all of them; 0 without new tokens."""
        return max(self.ids, default=-1) + 1

    def uses(self, tokens: NDArray[np.int32]) -> list[int]:
        """Count how often each occurs in tokens, [N]."""
        if not self.ids:
            return []
        found, counts = np.unique(tokens[np.isin(tokens, self.ids)], return_counts=True)
        counted = dict(zip(found.tolist(), counts.tolist(), strict=True))
        return [counted.get(number, 0) for number in self.ids]

    def saved(self, tokens: NDArray[np.int32]) -> int:
        """Give how many tokens more there would be without the new ones; beside them, text may have
        been cut otherwise."""
        shorter = (len(pieces) - 1 for pieces in self.pieces)
        return sum(count * less for count, less in zip(self.uses(tokens), shorter, strict=True))

    def listed(self, tokens: NDArray[np.int32]) -> tuple[NewToken, ...]:
        """Give all of them for a report, with how often each occurs in the training rows."""
        return tuple(
            NewToken(text=text, id=number, special=text in self.special, uses=uses)
            for text, number, uses in zip(self.texts, self.ids, self.uses(tokens), strict=True)
        )

    def sentences(self, tokens: NDArray[np.int32]) -> list[str]:
        """Say what was added, what was not, and what the training rows, [N], do not have."""
        said = []
        if self.ids:
            said.append(f"Added {len(self.ids)} tokens to the tokenizer.")
        if self.known:
            said.append(f"Not added, as the tokenizer has them as one token: {_named(self.known)}.")
        uses = zip(self.texts, self.uses(tokens), strict=True)
        if unused := [text for text, count in uses if not count]:
            said.append(f"In no training row, so nothing is learned of them: {_named(unused)}.")
        return said


NONE = NewTokens()


def extend(tokenizer: Any, dataset: Dataset) -> NewTokens:
    """Add the tokens of ``dataset`` to a fast tokenizer with its chat template; give what is new.

    Raises UserError InvalidRun for a text that cannot become a token, and for a plain one that the
    chat template ends answers with.
    """
    special, plain = dataset.add_special_tokens, dataset.add_tokens
    if not special and not plain:
        return NONE
    # All before any is added: a token that holds another is not made of it.
    before = {text: tokenizer(text, add_special_tokens=False)["input_ids"] for text in special}
    before |= {text: tokenizer(text, add_special_tokens=False)["input_ids"] for text in plain}
    ids = set(tokenizer.get_vocab().values())
    known = tuple(text for text, found in before.items() if _is_one(tokenizer, found))
    _add(tokenizer, (text for text in special if text not in known), special=True)
    _add(tokenizer, (text for text in plain if text not in known), special=False)
    _check_end_of_turn(tokenizer, plain)
    added = {tokenizer.convert_tokens_to_ids(text): text for text in before if text not in known}
    for number, text in added.items():
        if number in ids:
            raise UserError(
                UserErrorReason.INVALID_RUN,
                f"dataset.addTokens: {_shown(text)} cannot become a token, as the tokenizer's "
                "vocabulary uses that spelling for another text. Choose another one.",
            )
    _mend_decoder(tokenizer.backend_tokenizer, added)
    order = sorted(added)
    return NewTokens(
        texts=tuple(added[number] for number in order),
        ids=tuple(order),
        pieces=tuple(tuple(before[added[number]]) for number in order),
        special=frozenset(special) & frozenset(added.values()),
        known=known,
    )


def _is_one(tokenizer: Any, ids: list[int]) -> bool:
    return len(ids) == 1 and ids[0] != tokenizer.unk_token_id


def _add(tokenizer: Any, texts: Iterable[str], *, special: bool) -> None:
    # Looked for in the text as it stands, before anything else: so they are found within words
    # too, and llama.cpp, which does the same with such tokens, finds the same ones.
    tokens = [AddedToken(text, normalized=False, special=special) for text in texts]
    tokenizer.add_tokens(tokens, special_tokens=special)


def _mend_decoder(backend: Any, added: dict[int, str]) -> None:
    """Make what is decoded of each token its text.

    The decoder of byte-level tokenizers takes letters such as ü for single bytes, in tokens that
    were added as well. So it is given the spelling in bytes of those that it would show otherwise.
    """
    wrong = {n: text for n, text in added.items() if _decoded(backend, n) != text}
    if not wrong:
        return
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    spelled = [
        decoders.Replace(
            Regex(rf"\A{re.escape(text)}\z"),
            "".join(piece for piece, _ in level.pre_tokenize_str(text)),
        )
        for text in wrong.values()
    ]
    if '"ByteLevel"' in backend.decoder.__getstate__().decode():
        backend.decoder = decoders.Sequence([*spelled, backend.decoder])
    for number, text in wrong.items():
        if (shown := _decoded(backend, number)) != text:
            raise UserError(
                UserErrorReason.INVALID_RUN,
                f"dataset.addTokens: {_shown(text)} cannot become a token, as the model's "
                f"tokenizer would show it as {_shown(shown)}. Choose another one.",
            )


def _decoded(backend: Any, number: int) -> str:
    return str(backend.decode([number], skip_special_tokens=False))


def _check_end_of_turn(tokenizer: Any, plain: tuple[str, ...]) -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": _PROBE}]
    try:
        tail = tokenizer.apply_chat_template(turns, tokenize=False).rpartition(_PROBE)[2]
    except Exception:  # whatever a template raises: rows that it refuses are malformed
        return
    first = tokenizer(tail, add_special_tokens=False)["input_ids"][:1]
    for text in plain:
        if first == [tokenizer.convert_tokens_to_ids(text)]:
            raise UserError(
                UserErrorReason.INVALID_RUN,
                f"dataset.addTokens has {_shown(text)}, which the chat template ends answers with: "
                "as a plain token it would be shown at the end of each. Move it to "
                "dataset.addSpecialTokens.",
            )


def _named(texts: Iterable[str]) -> str:
    listed = [_shown(text) for text in texts]
    more = f" and {len(listed) - _NAMED} more" if len(listed) > _NAMED else ""
    return ", ".join(listed[:_NAMED]) + more


def _shown(text: str) -> str:
    return shorten(repr(text), 40)
