"""Passes over a FineTuneJob that do nothing but ask the trainer and write the status down."""

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import cast

from tests.unit import bodies
from tests.unit.jobs import CONFIG, make_job
from tunesmith_api.attempts import ActiveAttempt, StageName
from tunesmith_api.jobstatus import FineTuneJobStatus
from tunesmith_api.result import PROGRESS_PORT, Phase, TrainerProgress
from tunesmith_operator.kube.cache import Cache
from tunesmith_operator.kube.kinds import Object
from tunesmith_operator.reconcile.finetunejob import FineTuneJobReconciler
from tunesmith_operator.reconcile.world import Kube, ServingWorld, World

START = datetime(2026, 1, 1, tzinfo=UTC)
PAUSE = timedelta(seconds=CONFIG.progress_seconds)
UID = "12345678-aaaa"
TRAIN = "support-train-1"


@dataclass
class Shop:
    """A job in training, its pod, what the trainer answers, and a clock that a test turns."""

    now: datetime = START
    step: int | None = None
    """None: the trainer does not answer."""
    moved: datetime = START
    written: list[FineTuneJobStatus] = field(default_factory=list)
    status: FineTuneJobStatus = field(default_factory=FineTuneJobStatus)
    asked: list[tuple[str, int]] = field(default_factory=list)
    reconcile: FineTuneJobReconciler = field(default_factory=FineTuneJobReconciler)
    cache: Cache = field(default_factory=Cache)
    made: Object = field(default_factory=dict)
    """The attempt's Job."""
    stopped: list[str] = field(default_factory=list)
    """The attempt's Job, once for each pass that wants it gone."""

    def __post_init__(self) -> None:
        self.status = FineTuneJobStatus(
            start_time=START,
            active=ActiveAttempt(
                number=1,
                stage=StageName.TRAIN,
                job_name=TRAIN,
                start_time=START,
                running_time=START,
            ),
        )
        self.restart_job("j-1")

    def restart_job(self, uid: str) -> None:
        """The attempt's Job, made anew: its trainer has not answered yet."""
        self.cache = Cache()
        status = {"startTime": "2026-01-01T00:00:00Z"}
        self.made = bodies.job(TRAIN, uid=uid, owner=UID, status=status)
        self.cache.saw("Job", self.made)
        state = {"running": {"startedAt": "2026-01-01T00:00:00Z"}}
        containers = [{"name": "trainer", "state": state, "started": True}]
        self.cache.saw(
            "Pod",
            bodies.pod(
                uid=f"p-{uid}",
                job_uid=uid,
                owner=UID,
                status={
                    "phase": "Running",
                    "podIP": "10.0.0.1",
                    "containerStatuses": containers,
                },
            ),
        )

    # -- what the reconciler calls ---------------------------------------------------------------

    async def get(self, kind: str, namespace: str, name: str) -> Object | None:
        del namespace, name
        if kind == "Job":
            return self.made
        body: Object = make_job().model_dump(mode="json", by_alias=True, exclude_none=True)
        body["status"] = self.status.model_dump(mode="json", by_alias=True, exclude_none=True)
        return body

    async def delete(self, kind: str, namespace: str, name: str, **_: object) -> bool:
        del kind, namespace
        self.stopped.append(name)
        return True

    async def apply_status(
        self, kind: str, namespace: str, name: str, status: Object, **_: object
    ) -> Object:
        del kind, namespace, name
        self.status = FineTuneJobStatus.model_validate(status)
        self.written.append(self.status)
        return {}

    async def poll(self, ip: str, port: int) -> TrainerProgress | None:
        self.asked.append((ip, port))
        if self.step is None:
            return None
        return TrainerProgress(
            stage=StageName.TRAIN,
            attempt=1,
            phase=Phase.TRAINING,
            phase_start_time=START,
            step=self.step,
            total_steps=1000,
            seconds_since_progress=(self.now - self.moved).total_seconds(),
        )

    # -- turns -----------------------------------------------------------------------------------

    def look(self, after: timedelta = timedelta(), step: int | None = None) -> None:
        """Do a pass, so much later, with the trainer at this step or silent."""
        self.now += after
        if step is not None and step != self.step:
            self.moved = self.now
        self.step = step
        world = World(
            kube=cast("Kube", self),
            cache=self.cache,
            record=lambda *_, **__: None,
            poll_progress=self.poll,
            now=lambda: self.now,
            config=CONFIG,
            serving=cast("ServingWorld", None),
            wake=lambda _: None,
            term=lambda: 1,
        )
        asyncio.run(self.reconcile(world, "team", "support"))

    def steps_written(self) -> list[int]:
        return [s.progress.step for s in self.written if s.progress]

    def stops(self, *silences: timedelta) -> int:
        """Give how many passes stop the attempt, where the trainer is silent for so long."""
        before = len(self.stopped)
        for silence in silences:
            self.look(silence, step=None)
        return len(self.stopped) - before


def running() -> Shop:
    """Give a shop whose status says that training runs, at step 1."""
    shop = Shop()
    shop.look(step=1)
    shop.written.clear()
    return shop


def test_progress_alone_is_written_once_in_a_pause() -> None:
    shop = running()
    for step in range(2, 12):
        shop.look(PAUSE / 10, step=step)
    assert shop.steps_written() == [11], "ten passes, and the last came when the pause was over"
    shop.look(PAUSE, step=12)
    assert shop.steps_written() == [11, 12]


def test_what_is_more_than_progress_is_written_at_once() -> None:
    shop = running()
    shop.look(PAUSE, step=2)
    other = shop.status.conditions[0].model_copy(update={"message": "somebody wrote this"})
    shop.status = shop.status.model_copy(
        update={"conditions": (other, *shop.status.conditions[1:])}
    )
    shop.look(timedelta(seconds=0.1), step=3)
    assert shop.steps_written() == [2, 3]


def test_an_operator_that_has_just_begun_writes_at_once() -> None:
    shop = running()
    shop.look(PAUSE, step=2)
    shop.reconcile = FineTuneJobReconciler()
    shop.look(timedelta(seconds=0.1), step=3)
    assert shop.steps_written() == [2, 3]


def test_nothing_new_is_not_written_however_long_ago() -> None:
    shop = running()
    shop.look(10 * PAUSE, step=1)
    assert shop.written == []


STALL = timedelta(seconds=make_job().spec.run_policy.stall_timeout_seconds + 60)


def test_a_trainer_that_fell_silent_has_stalled() -> None:
    shop = running()
    assert shop.stops(timedelta(seconds=1), STALL) == 1
    assert shop.asked[-1] == ("10.0.0.1", PROGRESS_PORT)


def test_silence_before_the_trainers_first_answer_is_no_stall() -> None:
    """A network policy may keep the operator away from it for ever: training is none the worse."""
    shop = Shop()
    assert shop.stops(timedelta(seconds=1), STALL, STALL) == 0
    assert len(shop.asked) == 3


def test_the_next_attempts_silence_is_its_own() -> None:
    shop = running()
    shop.restart_job("j-2")
    assert shop.stops(timedelta(seconds=1), STALL) == 0


def test_silence_is_counted_from_the_last_answer() -> None:
    shop = running()
    assert shop.stops(STALL / 2) == 0
    shop.look(STALL * 3 / 4, step=2)
    assert shop.stops(timedelta(seconds=1), STALL / 2) == 0
