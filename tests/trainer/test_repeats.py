"""Rows that repeat others: what is found, what is dropped, and that all pairs say the same."""

from __future__ import annotations

import random
import re

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trainer.scratch_room import SCRATCH
from tests.trainer.test_splitting import WORDS, row, rows_of
from tunesmith_api.cleaning import Clean, Deduplication
from tunesmith_trainer.data.near import find_pairs, scheme_for
from tunesmith_trainer.data.repeats import Repeats
from tunesmith_trainer.data.shingles import distinct
from tunesmith_trainer.data.tally import Tally

LONG = " ".join(WORDS[:60])
_WORD = re.compile(r"[\u0800-\U0010ffff]|[+*/=<>^%&|~$#@]|[a-z0-9\u0080-\u07ff]+")


def shingles_of(text: str) -> set[tuple[str, ...]]:
    """The definition, read off shingles' docstring."""
    words = _WORD.findall(text.lower())
    if len(words) < 3:
        return {tuple(words)} if words else set()
    return set(zip(words, words[1:], words[2:], strict=False))


@settings(deadline=None)
@given(st.lists(st.text(alphabet="abA1 +,.=中é😀ß\n", max_size=30), min_size=1, max_size=8))
def test_shingles_of_many_rows_are_those_of_each(texts: list[str]) -> None:
    keys, sizes = distinct([row(text).content for text in texts])
    wanted = [shingles_of(text) for text in texts]
    assert sizes.tolist() == list(map(len, wanted))
    mask = (1 << 44) - 1
    sets = [{int(key) & mask for key in part} for part in np.split(keys, np.cumsum(sizes)[:-1])]
    for n, one in enumerate(sets):
        for m, other in enumerate(sets):
            assert len(one & other) == len(wanted[n] & wanted[m])


def variants(seed: int, count: int) -> list[str]:
    """Texts, some of which are others with a few words changed."""
    rng = random.Random(seed)
    texts: list[list[str]] = []
    while len(texts) < count:
        words = rng.choices(WORDS, k=rng.randint(5, 120))
        texts.append(words)
        while rng.random() < 0.5:
            changed = list(words)
            for _ in range(rng.randint(1, max(1, len(words) // 25))):
                changed[rng.randrange(len(changed))] = rng.choice(WORDS)
            texts.append(changed)
    rng.shuffle(texts)
    return [" ".join(words) for words in texts[:count]]


@pytest.mark.parametrize("similarity", [0.7, 0.85, 0.95, 1.0])
def test_pairs_are_those_that_comparing_all_with_all_finds(similarity: float) -> None:
    texts = variants(3, 600)
    sets = [shingles_of(text) for text in texts]
    wanted = {
        (n, m)
        for m, other in enumerate(sets)
        for n, one in enumerate(sets[:m])
        if len(one & other) >= similarity * len(one | other)
    }
    pairs = find_pairs([row(text).content for text in texts], similarity, SCRATCH)
    found = set(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True))
    assert found <= wanted
    assert len(found) >= 0.98 * len(wanted)
    assert similarity == 1.0 or len(wanted) > 5


@pytest.mark.parametrize("similarity", [0.7, 0.8, 0.85, 0.9, 0.99, 1.0])
def test_few_pairs_at_the_limit_are_missed(similarity: float) -> None:
    bands, minima = scheme_for(similarity)
    assert (1 - similarity**minima) ** bands <= 0.01
    assert bands * minima <= 72


def test_a_crowd_made_from_one_template_is_found_without_comparing_all_with_all() -> None:
    texts = [f"{LONG} n{n}" for n in range(3000)]
    compared: list[int] = []
    rows = rows_of(texts)
    clean = Clean(deduplicate=Deduplication.NEAR)
    kept = Repeats(clean, Tally(), SCRATCH).resolve([rows], compared.append)[0].rows
    assert list(kept) == rows[:1]


def resolved(deduplicate: str, *parts: list[str]) -> tuple[list[list[int]], Tally]:
    tally = Tally()
    clean = Clean(deduplicate=Deduplication(deduplicate))
    given = [rows_of(texts, f"part{n}") for n, texts in enumerate(parts)]
    kept = Repeats(clean, tally, SCRATCH).resolve(given)
    return [[row.line for row in part.rows] for part in kept], tally


def test_near_duplicates_stay_unless_asked_for() -> None:
    texts = [LONG, LONG + " end", "other words are here"]
    assert resolved("Exact", texts)[0] == [[1, 2, 3]]
    lines, tally = resolved("Near", texts)
    assert lines == [[1, 3]]
    assert [(d.reason, d.rows) for d in tally.dropped()] == [("NearDuplicate", 1)]
    assert (tally.samples[0].file, tally.samples[0].line) == ("part0", 2)


def test_a_row_is_only_dropped_for_one_that_stays() -> None:
    # Each is like the next, the ends are not alike: the middle goes, and with it the chain.
    chain = [" ".join([*WORDS[n * 3 :][:60]]) for n in range(5)]
    lines, _ = resolved("Near", chain)
    assert lines == [[1, 3, 5]]


def test_rows_like_held_out_ones_are_dropped_in_any_case() -> None:
    lines, tally = resolved(
        "Off", [LONG, "a b c d"], ["A, b: c d!", LONG, LONG + " x", "e f g", "e f g"]
    )
    assert lines == [[1, 2], [4, 5]]
    assert tally.duplicates == 3


def test_a_row_without_words_is_like_its_equals_only() -> None:
    lines, _ = resolved("Near", ["..."], ["?!", "...", "-"])
    assert lines == [[1], [1, 3]]


def test_system_messages_do_not_make_rows_alike() -> None:
    system = {"role": "system", "content": LONG}
    contents = [
        orjson.dumps([system, {"role": "user", "content": f"question {word} of it"}])
        for word in "abc"
    ]
    assert len(find_pairs(contents, 0.85, SCRATCH).first) == 0


def test_other_operators_are_other_words() -> None:
    sums = [f"{WORDS[n]} what is {n} {sign} 1" for n in range(3) for sign in "+*"]
    assert len(find_pairs([row(text).content for text in sums], 1.0, SCRATCH).first) == 0


def test_without_rows_there_are_no_pairs() -> None:
    assert len(find_pairs([], 0.85, SCRATCH).first) == 0
