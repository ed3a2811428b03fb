"""Judges a row's text: language, swear words, repetition, quality. Pure.

Called by ``cleaning``; what its limits are is documented in docs/cleaning.md.
"""

import re
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any

from tunesmith_api.result import UserErrorReason
from tunesmith_trainer.outcome import UserError

_WORDS = re.compile(r"[^\W_]+")
_BY_SPACE = re.compile(r"\S+")
# Fewer letters say too little of their language.
_FEWEST_LETTERS = 24
_JUDGED_CHARACTERS = 2000
_FEWEST_WORDS = 20

# Rae et al. 2021 (Gopher), table A1.
_MOST_REPEATED_LINES = 0.30
_MOST_IN_REPEATED_LINES = 0.20
_MOST_IN_COMMON = {2: 0.20, 3: 0.18, 4: 0.16}
_MOST_IN_REPEATED = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}

_LISTS = {
    "cs": "czech", "da": "danish", "de": "german", "en": "english", "es": "spanish",
    "fi": "finnish", "fr": "french", "hu": "hungarian", "it": "italian", "nl": "dutch",
    "no": "norwegian", "pl": "polish", "pt": "portuguese", "ru": "russian", "sv": "swedish",
    "tr": "turkish",
}  # fmt: skip
_LONGEST_PHRASE = 4


class LanguageFilter:
    """Tells texts in languages that are not wanted (py3langid: Lui and Baldwin 2012)."""

    def __init__(self, wanted: Sequence[str]) -> None:
        """Raise UserError (InvalidRun) for a language that is not known."""
        self._wanted = frozenset(wanted)
        known = _identifier().labels
        if unknown := sorted(self._wanted.difference(known)):
            raise UserError(
                UserErrorReason.INVALID_RUN,
                f"dataset.clean.language names {', '.join(unknown)}. Known are"
                f" {', '.join(sorted(known))}.",
            )

    def refuses(self, text: str) -> bool:
        """Tell whether the text is in another language; a short one never is."""
        start = text[:_JUDGED_CHARACTERS]
        if sum(letter.isalpha() for letter in start) < _FEWEST_LETTERS:
            return False
        return _identifier().classify(start)[0] not in self._wanted


class ProfanityFilter:
    """Finds the words of glin-profanity's lists, as whole words."""

    def __init__(self, languages: Sequence[str]) -> None:
        names = [_LISTS[code] for code in languages if code in _LISTS] or ["english"]
        self._phrases = frozenset(phrase for name in names for phrase in _phrases(name))

    def find(self, text: str) -> list[tuple[int, int]]:
        """Give where swear words and phrases are: starts and ends, in order, apart."""
        words = [(match.start(), match.end()) for match in _WORDS.finditer(text)]
        lowered = [text[start:end].lower() for start, end in words]
        found, at = [], 0
        while at < len(words):
            length = self._length_at(lowered, at)
            if length:
                found.append((words[at][0], words[at + length - 1][1]))
            at += max(1, length)
        return found

    def _length_at(self, words: list[str], at: int) -> int:
        for length in range(min(_LONGEST_PHRASE, len(words) - at), 0, -1):
            if tuple(words[at : at + length]) in self._phrases:
                return length
        return 0


def is_repetitive(text: str) -> bool:
    """Tell a text that repeats lines or phrases more than Gopher's rules allow.

    Shares are of characters in words. Texts under 20 words pass; a phrase that comes twice only is
    never too common.
    """
    words = _BY_SPACE.findall(text)
    if len(words) < _FEWEST_WORDS:
        return False
    return _repeats_lines(text) or _repeats_phrases(words)


def quality(text: str) -> float:
    """Give a score from 0, of noise, to 1: the product of four shares, each capped at 1.

    letters or digits among visible characters / 0.7; words with a letter / 0.6; 0.1 / hash signs
    and ellipses a word; 0.3 / share of letters in upper case. After Gopher's and C4's rules.
    """
    words = _BY_SPACE.findall(text)
    visible = sum(map(len, words))
    if not visible:
        return 0.0
    of_words = sum(letter.isalnum() for letter in text)
    with_letter = sum(any(map(str.isalpha, word)) for word in words)
    symbols = (text.count("#") + text.count("...") + text.count("…")) / len(words)
    upper = sum(map(str.isupper, text))
    cased = upper + sum(map(str.islower, text))
    return (
        min(1.0, of_words / visible / 0.7)
        * min(1.0, with_letter / len(words) / 0.6)
        * (min(1.0, 0.1 / symbols) if symbols else 1.0)
        * (min(1.0, 0.3 * cased / upper) if upper else 1.0)
    )


@cache
def _identifier() -> Any:
    # Loading takes seconds and 100 MB: only where a language is asked for.
    from py3langid import langid

    return langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE)


@cache
def _phrases(name: str) -> frozenset[tuple[str, ...]]:
    from glin_profanity.data.dictionary import DictionaryLoader

    terms = DictionaryLoader().get_words(name)
    return frozenset(
        tuple(words)
        for term in terms
        if 0 < len(words := _WORDS.findall(term.lower())) <= _LONGEST_PHRASE
        and sum(map(len, words)) > 2
    )


def _repeats_lines(text: str) -> bool:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    counts = Counter(lines)
    if len(counts) == len(lines):
        return False
    repeated = len(lines) - len(counts)
    characters = sum(len(line) * (count - 1) for line, count in counts.items())
    return repeated > _MOST_REPEATED_LINES * len(
        lines
    ) or characters > _MOST_IN_REPEATED_LINES * sum(map(len, lines))


def _repeats_phrases(words: list[str]) -> bool:
    total = sum(map(len, words))
    for length, limit in _MOST_IN_COMMON.items():
        grams = Counter(zip(*(words[n:] for n in range(length)), strict=False))
        gram, count = grams.most_common(1)[0]
        if count > 2 and sum(map(len, gram)) * count > limit * total:
            return True
        if count == 1:
            return False
    return any(
        _in_repeated(words, length) > limit * total for length, limit in _MOST_IN_REPEATED.items()
    )


def _in_repeated(words: list[str], length: int) -> int:
    """Count the characters of words in runs of ``length`` that came before; each word once."""
    seen: set[tuple[str, ...]] = set()
    covered = count = 0
    for start, gram in enumerate(zip(*(words[n:] for n in range(length)), strict=False)):
        if gram in seen:
            begin = max(start, covered)
            count += sum(map(len, words[begin : start + length]))
            covered = start + length
        seen.add(gram)
    return count
