"""How right an answer is, from 0 to 1, without asking a model: equal, contained, or similar.

Pure. Called by ``golden``; patterns are ``patterns``' matter, judges ``judge``'s.
"""

from collections import Counter

_ORDERS = range(1, 7)
_RECALL_WEIGHT = 4  # beta squared, with beta = 2


def is_equal(wanted: str, given: str) -> bool:
    """Whether both are the same but for white space."""
    return wanted.split() == given.split()


def contains(wanted: str, given: str) -> bool:
    """Whether the answer has the wanted text somewhere, whatever the case and white space."""
    return " ".join(wanted.casefold().split()) in " ".join(given.casefold().split())


def similarity(wanted: str, given: str) -> float:
    """Give chrF2: how many runs of 1 to 6 characters both share, white space left out.

    Popović, chrF: character n-gram F-score for automatic MT evaluation (WMT 2015), for one
    sentence, as sacrebleu computes it: precision and recall are means over the lengths that both
    texts have. Its time grows with the length alone, unlike difflib's, whose square a long answer
    would cost us.
    """
    wanted, given = "".join(wanted.split()), "".join(given.split())
    precisions, recalls = [], []
    for order in _ORDERS:
        ours, theirs = _runs(wanted, order), _runs(given, order)
        if ours and theirs:
            shared = (ours & theirs).total()
            precisions.append(shared / theirs.total())
            recalls.append(shared / ours.total())
    if not precisions or not sum(precisions):
        return 0.0
    precision, recall = sum(precisions) / len(precisions), sum(recalls) / len(recalls)
    return (1 + _RECALL_WEIGHT) * precision * recall / (_RECALL_WEIGHT * precision + recall)


def _runs(text: str, order: int) -> Counter[str]:
    return Counter(text[at : at + order] for at in range(len(text) - order + 1))
