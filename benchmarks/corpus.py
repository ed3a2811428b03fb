"""A seeded corpus with near duplicates, and the exact answer to which they are.

For ``bench_data``. Two texts are near duplicates where the Jaccard similarity of their sets of
three words in a row is high enough.
"""

import random
from collections import Counter
from collections.abc import Sequence

Shingle = tuple[str, ...]


def corpus(count: int, seed: int = 7) -> list[str]:
    """Give documents of 20 to 140 words of a vocabulary with Zipf's frequencies.

    A third are another one with up to a tenth of its words changed, left out or put in.
    """
    rng = random.Random(seed)
    letters = "etaoinshrdlu"
    words = ["".join(rng.choices(letters, k=rng.randint(2, 9))) for _ in range(8000)]
    weights = [1 / (rank + 10) for rank in range(len(words))]
    documents: list[list[str]] = []
    while len(documents) < count:
        if documents and rng.random() < 1 / 3:
            documents.append(edited(rng.choice(documents), words, rng))
        else:
            documents.append(rng.choices(words, weights, k=rng.randint(20, 140)))
    rng.shuffle(documents)
    return [" ".join(document) for document in documents]


def edited(document: list[str], words: list[str], rng: random.Random) -> list[str]:
    result = list(document)
    for _ in range(rng.randint(0, max(1, len(result) // 10))):
        place = rng.randrange(len(result))
        match rng.randrange(3):
            case 0:
                result[place] = rng.choice(words)
            case 1:
                del result[place]
            case _:
                result.insert(place, rng.choice(words))
    return result


def without_near(sets: Sequence[set[Shingle]], similarity: float) -> set[int]:
    """Give what an exact comparison of all pairs keeps: a row goes if it is like one that stays."""
    holders: dict[Shingle, list[int]] = {}
    kept: set[int] = set()
    for number, shingles in enumerate(sets):
        shared = Counter(other for shingle in shingles for other in holders.get(shingle, ()))
        if all(
            count < similarity * (len(shingles) + len(sets[other]) - count)
            for other, count in shared.items()
        ):
            kept.add(number)
            for shingle in shingles:
                holders.setdefault(shingle, []).append(number)
    return kept


def shingles_of(text: str) -> set[Shingle]:
    words = [*text.split(), "yes"]
    return set(zip(words, words[1:], words[2:], strict=False))


def quality(removed: set[int], wanted: set[int]) -> tuple[float, float, float]:
    """Give precision, recall and their harmonic mean."""
    right = len(removed & wanted)
    precision, recall = right / max(1, len(removed)), right / max(1, len(wanted))
    return precision, recall, 2 * precision * recall / max(1e-9, precision + recall)
