"""The tokenizer as GGUF metadata: tokens, merges, special tokens, chat template.

Byte-level BPE, the kind that llama.cpp calls gpt2, only with a way of splitting text into words
that llama.cpp knows by name: it does not read the tokenizer's own rules, so a wrong name would give
other tokens than the model was trained on, and nobody would be told. And SentencePiece, the kind
that it calls llama.
"""

import json
from typing import Any

from gguf import GGUFWriter, TokenType
from pydantic import BaseModel, ConfigDict

from tunesmith_api.result import UserErrorReason
from tunesmith_trainer.data.wordsplits import KNOWN, name_of_splitting
from tunesmith_trainer.gguf import sentencepiece
from tunesmith_trainer.gguf.families import refusal
from tunesmith_trainer.outcome import UserError

_PROBE = "ZQXJ"


class _Bpe(BaseModel):
    model_config = ConfigDict(extra="ignore")

    type: str
    byte_fallback: bool = False
    unk_token: str | None = None
    vocab: dict[str, int] = {}
    merges: list[tuple[str, str] | str] = []

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """The merges; in older files each is one text with a space between."""
        return [m if isinstance(m, tuple) else _halves(m) for m in self.merges]


class _AddedToken(BaseModel):
    model_config = ConfigDict(extra="ignore")

    id: int
    content: str
    special: bool


class _Tokenizer(BaseModel):
    """What counts of a tokenizer.json."""

    model_config = ConfigDict(extra="ignore")

    added_tokens: list[_AddedToken] = []
    normalizer: dict[str, Any] | None = None
    pre_tokenizer: dict[str, Any] | None = None
    model: dict[str, Any]


class Vocabulary:
    """A tokenizer that llama.cpp can stand in for.

    Raises UserError InvalidRun for one that it cannot, ModelInvalid where there are more tokens
    than the `size` rows that the model's embeddings have.
    """

    def __init__(self, tokenizer: Any, size: int) -> None:
        self._tokenizer, self._size = tokenizer, size
        content = _Tokenizer.model_validate(json.loads(tokenizer.backend_tokenizer.to_str()))
        self._bpe = _Bpe.model_validate(content.model)
        self._is_sentencepiece = self._bpe.type == "BPE" and self._bpe.byte_fallback
        if self._is_sentencepiece:
            self._pre = "default"
            self._space_prefix = sentencepiece.adds_space_prefix(
                content.normalizer, content.pre_tokenizer
            )
        else:
            self._pre, self._space_prefix = _name_of_splitting(content), False
        self._added = {
            token.id: token
            for token in content.added_tokens
            # Gemma 3 has a token for pictures just above what its text model knows.
            if token.id < size or not (self._is_sentencepiece and token.special)
        }
        most = max([*self._bpe.vocab.values(), *self._added])
        if most >= size:
            raise UserError(
                UserErrorReason.MODEL_INVALID,
                f"The tokenizer has a token {most}; the model knows {size} tokens, from 0.",
            )
        self._scores = self._piece_scores()

    def add_to(self, writer: GGUFWriter) -> None:
        """Add all that llama.cpp needs to read and write text as the tokenizer does."""
        tokens, types = self._tokens()
        writer.add_tokenizer_model("llama" if self._is_sentencepiece else "gpt2")
        writer.add_tokenizer_pre(self._pre)
        writer.add_token_list(tokens)
        writer.add_token_types(types)
        if self._is_sentencepiece:
            writer.add_token_scores([self._score(number) for number in range(self._size)])
        else:
            writer.add_token_merges(self._merges(tokens))
        self._add_special(writer)
        # What the tokenizer does counts, not what its settings say: they disagree in places.
        ids = self._tokenizer("a")["input_ids"]
        writer.add_add_bos_token(ids[0] == self._tokenizer.bos_token_id)
        writer.add_add_eos_token(ids[-1] == self._tokenizer.eos_token_id)
        writer.add_add_space_prefix(self._space_prefix)
        template = self._tokenizer.chat_template
        if isinstance(template, dict):
            template = [{"name": name, "template": text} for name, text in template.items()]
        writer.add_chat_template(template)

    def _tokens(self) -> tuple[list[str], list[int]]:
        """Give text and type of all tokens; those that only the embeddings have are unused."""
        texts = {number: text for text, number in self._bpe.vocab.items()}
        tokens, types = [], []
        for number in range(self._size):
            added, text = self._added.get(number), texts.get(number)
            if added is not None:
                tokens.append(added.content)
                types.append(TokenType.CONTROL if added.special else TokenType.USER_DEFINED)
            else:
                tokens.append(f"[PAD{number}]" if text is None else text)
                types.append(TokenType.UNUSED if text is None else self._type(text))
        return tokens, [int(kind) for kind in types]

    def _type(self, text: str) -> TokenType:
        if self._is_sentencepiece and text == self._bpe.unk_token:
            return TokenType.UNKNOWN
        is_byte = self._is_sentencepiece and sentencepiece.is_byte(text)
        return TokenType.BYTE if is_byte else TokenType.NORMAL

    def _piece_scores(self) -> dict[int, float]:
        if not self._is_sentencepiece:
            return {}
        vocabulary = self._bpe.vocab
        added = {token.content for token in self._added.values()}
        found = sentencepiece.scores(vocabulary, self._bpe.pairs, added)
        return {vocabulary[piece]: score for piece, score in found.items()}

    def _score(self, number: int) -> float:
        lowest = sentencepiece.ADDED_SCORE if number in self._added else sentencepiece.UNUSED_SCORE
        return self._scores.get(number, lowest)

    def _merges(self, tokens: list[str]) -> list[str]:
        merges = [" ".join(pair) for pair in self._bpe.pairs]
        # llama.cpp asks for the list, and the writer can write no empty one. Merging begins with
        # single characters, so this one never applies.
        return merges or [f"[{tokens[0]}] [{tokens[0]}]"]

    def _add_special(self, writer: GGUFWriter) -> None:
        named = {
            writer.add_bos_token_id: self._tokenizer.bos_token_id,
            writer.add_eos_token_id: self._tokenizer.eos_token_id,
            writer.add_unk_token_id: self._tokenizer.unk_token_id,
            writer.add_pad_token_id: self._tokenizer.pad_token_id,
            writer.add_eot_token_id: self._end_of_turn(),
        }
        for add, number in named.items():
            if number is not None:
                add(number)

    def _end_of_turn(self) -> int | None:
        """Give the special token that follows an answer in the chat template, if there is one."""
        turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": _PROBE}]
        text = self._tokenizer.apply_chat_template(turns, tokenize=False)
        tail = text.rpartition(_PROBE)[2]
        ids = self._tokenizer(tail, add_special_tokens=False)["input_ids"]
        return next((n for n in ids[:1] if n in self._added and self._added[n].special), None)


def _halves(merge: str) -> tuple[str, str]:
    left, _, right = merge.partition(" ")
    return left, right


def _name_of_splitting(content: _Tokenizer) -> str:
    """Give llama.cpp's name for how the tokenizer splits text into words, or refuse it."""
    if content.model.get("type") != "BPE":
        raise refusal(
            "the model's tokenizer cannot be written; byte-level BPE and SentencePiece's BPE can"
        )
    if name := name_of_splitting(content.normalizer, content.pre_tokenizer):
        return name
    known = ", ".join(KNOWN)
    raise refusal(
        "the model's tokenizer splits text into words in a way that llama.cpp is not known to "
        f"have; known are those of {known}"
    )
