"""What the operator makes of the counts of several router pods."""

import pytest

from tunesmith_api.router import RouterCounts, RouterReport, RouterSplit
from tunesmith_operator.planning.routing import RouterAnswer, read_answers
from tunesmith_operator.planning.serving import ServingPod

ALONE = RouterSplit(main="chat-1")
BESIDE = RouterSplit(main="chat-1", canary="chat-2", weight=25)
COPIED = RouterSplit(main="chat-1", canary="chat-2", mirror_percent=10)


def answer(name: str, split: RouterSplit | None, requests: int, in_a_row: int) -> RouterAnswer:
    pod = ServingPod(name=name, uid=name, revision=0, address="127.0.0.1", is_ready=True)
    counts = RouterCounts(
        name="chat-2",
        requests=requests,
        errors=in_a_row,
        consecutive_errors=in_a_row,
        endpoints_up=1,
    )
    return RouterAnswer(pod, RouterReport(split=split, counts=(counts,)))


@pytest.mark.parametrize(
    ("splits", "in_a_row"),
    [
        ([BESIDE, BESIDE], 60),
        ([COPIED, COPIED], 60),
        ([BESIDE, ALONE], 7),
        ([ALONE, BESIDE], 60),
        ([ALONE, ALONE], 0),
        ([None, None], 0),
    ],
)
def test_errors_in_a_row_are_those_since_the_revision_was_taken_in(
    splits: list[RouterSplit | None], in_a_row: int
) -> None:
    """A pod that was not told of the canary yet still has what it counted of it as stable."""
    first, second = splits
    seen = read_answers([answer("a", first, 100, 7), answer("b", second, 200, 60)])
    assert seen is not None
    assert seen.counted("chat-2").consecutive_errors == in_a_row
    assert seen.counted("chat-2").requests == 300
