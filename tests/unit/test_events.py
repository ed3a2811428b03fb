"""Events: counted instead of multiplied, never in the way."""

from datetime import UTC, datetime

from structlog.testing import capture_logs

from tunesmith_operator.kube.errors import AlreadyExists, Unavailable
from tunesmith_operator.kube.events import MOST_WAITING, EventRecorder
from tunesmith_operator.kube.kinds import Object


class Server:
    def __init__(self) -> None:
        self.posted: list[tuple[str, Object]] = []
        self.error: Exception | None = None

    async def create(self, manifest: Object) -> Object:
        return self._take("create", manifest)

    async def apply(self, manifest: Object) -> Object:
        return self._take("apply", manifest)

    def _take(self, verb: str, manifest: Object) -> Object:
        if self.error:
            raise self.error
        self.posted.append((verb, dict(manifest)))
        return manifest


class Story:
    def __init__(self) -> None:
        self.server = Server()
        self.time = 0.0
        self.recorder = EventRecorder(
            self.server,
            instance="i",
            now=lambda: datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
            clock=lambda: self.time,
        )

    def say(self, message: str = "m", uid: str = "u") -> None:
        self.recorder(
            "FineTuneJob", "ns", "a", uid, type="Normal", reason="Started", message=message
        )


def test_what_is_news_is_logged_with_its_object_and_repeats_are_not() -> None:
    story = Story()
    with capture_logs() as lines:
        story.say()
        story.say()
    assert lines == [
        {
            "event": "m",
            "kind": "FineTuneJob",
            "namespace": "ns",
            "name": "a",
            "reason": "Started",
            "type": "Normal",
            "log_level": "info",
        }
    ]


async def test_an_event_names_its_object() -> None:
    story = Story()
    story.say()
    await story.recorder.flush()
    ((verb, event),) = story.server.posted
    assert verb == "create"
    assert event["involvedObject"] == {
        "apiVersion": "tunesmith.dev/v1alpha1",
        "kind": "FineTuneJob",
        "namespace": "ns",
        "name": "a",
        "uid": "u",
    }
    assert (event["reason"], event["message"], event["count"]) == ("Started", "m", 1)


async def test_repeats_are_counted_and_posted_now_and_then() -> None:
    story = Story()
    for _ in range(10):
        story.say()
        await story.recorder.flush()
    assert len(story.server.posted) == 1
    story.time = 31
    await story.recorder.flush()
    assert [(verb, event["count"]) for verb, event in story.server.posted] == [
        ("create", 1),
        ("apply", 10),
    ]
    assert len({event["metadata"]["name"] for _, event in story.server.posted}) == 1


async def test_other_words_or_another_object_are_another_event() -> None:
    story = Story()
    story.say("m")
    story.say("n")
    story.say("m", uid="v")
    await story.recorder.flush()
    assert len({event["metadata"]["name"] for _, event in story.server.posted}) == 3


async def test_errors_are_swallowed() -> None:
    for error in (Unavailable("x"), AlreadyExists("x")):
        story = Story()
        story.server.error = error
        story.say()
        await story.recorder.flush()


async def test_a_flood_is_bounded() -> None:
    story = Story()
    for number in range(MOST_WAITING + 100):
        story.say(str(number))
    assert len(story.recorder._waiting) == MOST_WAITING
    assert len(story.recorder._notes) == MOST_WAITING
