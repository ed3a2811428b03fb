"""Answers compared with the expected ones: exact, contains, BLEU, ROUGE-L, chrF.

Pure. Called by `evaluation`. BLEU and chrF are sacrebleu's; ROUGE-L is ours, because the package
of that name has had no release since 2022, and none that is built.
"""

import re
from collections.abc import Callable, Sequence

from tunesmith_api.suites import TextMetric
from tunesmith_trainer.intervals import Observed, Statistic, mean, observe

_WORD = re.compile(r"\w+")


def compare(
    suite: str, metric: TextMetric, replies: Sequence[str], expected: Sequence[str]
) -> Observed:
    """Measure replies by one metric, row by row. Similarity is not among them: it needs a model."""
    name = f"{suite}/{metric.value}"
    if metric is TextMetric.BLEU:
        return _bleu(name, replies, expected)
    score = _SCORES[metric]
    return mean(
        name, [score(reply, wanted) for reply, wanted in zip(replies, expected, strict=True)]
    )


def exact(reply: str, expected: str) -> float:
    """1 where the texts are the same but for white space."""
    return float(reply.split() == expected.split())


def contains(reply: str, expected: str) -> float:
    """1 where the expected text occurs, whatever case and white space."""
    return float(" ".join(expected.casefold().split()) in " ".join(reply.casefold().split()))


def rouge_l(reply: str, expected: str) -> float:
    """ROUGE-L F1 of one sentence, 0 to 1 (Lin 2004), over lower-case words.

    Words are runs of letters and digits of any script; rouge-score's own tokenizer, which this
    equals on English text, throws away all but ASCII.
    """
    given, wanted = _WORD.findall(reply.lower()), _WORD.findall(expected.lower())
    common = lcs_length(given, wanted)
    return 2 * common / (len(given) + len(wanted)) if common else 0.0


def lcs_length(one: Sequence[str], other: Sequence[str]) -> int:
    """Give the length of the longest common subsequence, a word of the machine at a time.

    Bit-parallel (Hyyrö 2004, "Bit-parallel LCS-length computation revisited"): bit i of `row` is 0
    where the length grows at one[i].
    """
    places: dict[str, int] = {}
    for index, word in enumerate(one):
        places[word] = places.get(word, 0) | 1 << index
    full = (1 << len(one)) - 1
    row = full
    for word in other:
        matches = row & places.get(word, 0)
        row = ((row + matches) | (row - matches)) & full
    return len(one) - row.bit_count()


def chrf(reply: str, expected: str) -> float:
    """chrF2 of one sentence, 0 to 100 (Popović 2015)."""
    from sacrebleu.metrics.chrf import CHRF

    return float(CHRF().sentence_score(reply, [expected]).score)


def _bleu(name: str, replies: Sequence[str], expected: Sequence[str]) -> Observed:
    """Keep each row's counts, so that BLEU is the corpus's in every resample (Koehn 2004)."""
    from sacrebleu.metrics.bleu import BLEU

    scorer = BLEU()
    found = [scorer.corpus_score([r], [[e]]) for r, e in zip(replies, expected, strict=True)]
    rows = [[*one.counts, *one.totals, one.sys_len, one.ref_len] for one in found]
    return observe(name, Statistic.BLEU, *zip(*rows, strict=True))


_SCORES: dict[TextMetric, Callable[[str, str], float]] = {
    TextMetric.EXACT: exact,
    TextMetric.CONTAINS: contains,
    TextMetric.ROUGE_L: rouge_l,
    TextMetric.CHRF: chrf,
}
