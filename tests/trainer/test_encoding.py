"""Words encoded once each: the same tokens and marks as whole texts have, with each tokenizer."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, normalizers

from tests.trainer.gguf_models import (
    DIGITS,
    LLAMA3_WORDS,
    QWEN_WORDS,
    byte_level,
    make_sentencepiece,
    make_tokenizer,
    split,
    words_of,
)
from tests.trainer.test_templates import FAMILIES, dataset, real
from tunesmith_trainer.data import encoding
from tunesmith_trainer.data.chat_templates import CHATML, PLAIN
from tunesmith_trainer.data.encoding import Encoder
from tunesmith_trainer.data.templates import Rendered, Renderer, load_tokenizer
from tunesmith_trainer.tiny import write_tiny

TEKKEN_WORDS = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEMPLATES = (*(real(family.name) for family in FAMILIES), CHATML, PLAIN)
# What tokenizers treat in ways of their own: white space of all kinds, contractions, digits, marks,
# characters of several bytes, texts of special tokens, whole and broken.
PIECES = (
    *(
        "the",
        "The",
        "a",
        "harp",
        "'s",
        "'LL",
        "don't",
        "12345",
        "½",
        "é",
        "e\u0301",
        "\u017f",
        "🎵",
    ),
    *(
        "\u017f",
        "中文",
        "한국",
        "…",
        "--",
        "a/b",
        "/\n",
        "!\n",
        "x" * 40,
        "<|im_end|>",
        "<|im_",
        "<tool>",
    ),
    *(" ", "  ", " \n", "\n ", "\n\n", "\r\n", "\t", " \t ", "\u00a0", "\u3000", "\x1c", "\x85"),
)
TEXT = st.lists(st.sampled_from(PIECES), max_size=14).map("".join)


def tiny(folder: Path) -> Any:
    write_tiny(folder)
    return load_tokenizer(folder, dataset())


def trained(*steps: Any, **added: bool) -> Callable[[Path], Any]:
    def make(_: Path) -> Any:
        tokenizer = make_tokenizer(words_of(*steps))
        if added:
            tokenizer.add_tokens([AddedToken("<odd>", special=False, **added)])
        return tokenizer

    return make


def composed(_: Path) -> Any:
    tokenizer = make_tokenizer(words_of(split(QWEN_WORDS), byte_level(regex=False)))
    tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    return tokenizer


KINDS: dict[str, Callable[[Path], Any]] = {
    "a token a byte": tiny,
    "GPT-2": trained(byte_level(regex=True)),
    "SmolLM": trained(DIGITS, byte_level(regex=True)),
    "Llama 3": trained(split(LLAMA3_WORDS), byte_level(regex=False)),
    "Qwen": composed,
    "Mistral's Tekken": trained(split(TEKKEN_WORDS), byte_level(regex=False)),
    "a space in front": trained(byte_level(regex=True, space=True)),
    "an unknown splitting": trained(split(r"\s?\S+|\s+"), byte_level(regex=False)),
    "a token that takes spaces": trained(byte_level(regex=True), rstrip=True),
    "SentencePiece": lambda _: make_sentencepiece(),
}
BY_WORDS = ("a token a byte", "GPT-2", "SmolLM", "Llama 3", "Qwen", "Mistral's Tekken")


@pytest.fixture(scope="session")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    return cache(lambda kind: KINDS[kind](tmp_path_factory.mktemp("tokenizer")))


def marked(offsets: list[tuple[int, int]], spans: tuple[tuple[int, int], ...]) -> list[int]:
    """The definition: a token from the first that reaches into a span up to where it ends."""
    marks = [0] * len(offsets)
    for start, end in spans:
        for number, (begin, stop) in enumerate(offsets):
            if (begin >= start or stop > start) and begin < end:
                marks[number] = 1
    return marks


def check(tokenizer: Any, encoder: Encoder, rendered: list[Rendered]) -> None:
    made = encoder.encode(rendered)
    for encoded, (text, spans) in zip(made, rendered, strict=True):
        whole = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False)
        assert encoded.ids.tolist() == whole.ids, text
        assert encoded.supervised.tolist() == marked(whole.offsets, spans), (text, spans)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25, deadline=None)
@given(texts=st.lists(TEXT, min_size=1, max_size=4), data=st.data())
def test_any_text_with_any_spans(
    tokenizers: Callable[[str], Any], kind: str, texts: list[str], data: st.DataObject
) -> None:
    rendered = []
    for text in texts:
        places = data.draw(st.lists(st.integers(0, len(text)), max_size=4, unique=True))
        cuts = sorted(places)[: len(places) // 2 * 2]
        rendered.append(Rendered(text, tuple(zip(cuts[::2], cuts[1::2], strict=True))))
    tokenizer = tokenizers(kind)
    encoder = Encoder(tokenizer.backend_tokenizer)
    check(tokenizer, encoder, rendered)
    # Once more, with words that are remembered.
    check(tokenizer, encoder, rendered)


def conversations(seed: int, count: int) -> list[list[dict[str, Any]]]:
    """Conversations of one to four turns, some with a system message, some partly not learned."""
    rng = random.Random(seed)

    def said() -> str:
        return "A" + "".join(rng.choices([*PIECES, " ", " "], k=rng.randint(1, 30))) + "."

    result = []
    for _ in range(count):
        messages: list[dict[str, Any]] = []
        for _ in range(rng.randint(1, 4)):
            messages.append({"role": "user", "content": said()})
            messages.append({"role": "assistant", "content": said()})
            if rng.random() < 0.2:
                messages[-1]["weight"] = 0
        if rng.random() < 0.3:
            messages.insert(0, {"role": "system", "content": said()})
        result.append(messages)
    return result


@pytest.mark.parametrize("kind", KINDS)
def test_conversations_with_the_templates_of_real_models(
    tokenizers: Callable[[str], Any], kind: str
) -> None:
    tokenizer = tokenizers(kind)
    before = tokenizer.chat_template
    encoder = Encoder(tokenizer.backend_tokenizer)
    try:
        for number, template in enumerate(TEMPLATES):
            tokenizer.chat_template = template
            shown = Renderer(tokenizer).render(conversations(number, 12))
            rendered = [result for result in shown if isinstance(result, Rendered)]
            assert len(rendered) >= 6 and any(spans for _, spans in rendered)
            check(tokenizer, encoder, rendered)
    finally:
        tokenizer.chat_template = before


@pytest.mark.parametrize("kind", KINDS)
def test_words_are_encoded_once_where_that_is_known_to_be_right(
    tokenizers: Callable[[str], Any], kind: str
) -> None:
    class Counting:
        """The backend, with a count of what it was asked to encode."""

        def __init__(self) -> None:
            self.asked: list[str] = []

        def __getattr__(self, name: str) -> Any:
            return getattr(tokenizers(kind).backend_tokenizer, name)

        def encode_batch(self, texts: list[str], **options: Any) -> Any:
            self.asked += texts
            return tokenizers(kind).backend_tokenizer.encode_batch(texts, **options)

    backend = Counting()
    encoder = Encoder(backend)
    once = [Rendered("one two three", ()), Rendered("one two one two", ())]
    encoder.encode(once)
    encoder.encode(once)
    words = sorted(["one", " two", " three", " one"])
    whole = sorted([text for text, _ in once])
    assert sorted(backend.asked) == (words if kind in BY_WORDS else whole)


def test_memory_of_words_is_bounded(
    tokenizers: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "_REMEMBERED_WORDS", 100)
    encoder = Encoder(tokenizers("GPT-2").backend_tokenizer)
    for part in range(20):
        encoder.encode([Rendered(" ".join(f"{part}x{n}" for n in range(60)), ())])
        assert len(encoder._known) <= 160
    encoder.encode([Rendered("y" * 1000, ())])
    assert "y" * 1000 not in encoder._known
