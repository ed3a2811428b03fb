"""The API server is away for five minutes, in the middle of a training and of a roll-out.

It is stopped, not ended, so that what is asked of it hangs: the worst that a network does. Takes
seven minutes, most of them waiting, so it has a target of its own, ``make test-outage``.
"""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from deploy.load import by_revision, failures
from deploy.native import processes
from deploy.settings import read_settings
from deploy.shell import StepError
from deploy.standin.fleet import ensure_engine
from tests.e2e.lab import OPERATOR_NAMESPACE, OPERATOR_PODS, Lab, Say, until
from tests.e2e.rollouts import Deployments

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

NAME = "chat"
AWAY_SECONDS = 300
# Long enough to go on for minutes after the API server is back.
LONG = {"maxSteps": 5000, "learningRate": "1e-3", "perDeviceBatchSize": 32}
CHECKPOINT = {"everySteps": 500, "gracePeriodSeconds": 30}


@contextmanager
def no_answers(lab: Lab) -> Iterator[None]:
    """Stop the API server for as long as the block lasts."""
    if lab.cluster.name != "native":
        pytest.skip("only the native cluster's API server is a process of this machine")
    found = processes.find(read_settings().state)
    (server,) = [p.pid for p in found if p.program == "kube-apiserver"]
    os.kill(server, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server, signal.SIGCONT)


def operator_restarts(lab: Lab) -> dict[str, int]:
    """Give the restarts of the operator's pods by their names."""
    return {
        pod["metadata"]["name"]: sum(c["restartCount"] for c in pod["status"]["containerStatuses"])
        for pod in lab.kubectl.list_all("pods", OPERATOR_NAMESPACE, OPERATOR_PODS)
    }


@pytest.fixture
def fleet(lab: Lab, namespace: str) -> Deployments:
    """Give a deployment that serves a trained model."""
    model = lab.train_tiny(namespace, "Merged")
    fleet = Deployments(lab.kubectl, namespace, ensure_engine(lab.cluster, lab.log), model)
    fleet.apply(NAME, {"ANSWER": "good"})
    fleet.wait_until_stable(NAME, 1)
    return fleet


def test_an_api_server_that_is_away_for_minutes_costs_nothing(
    lab: Lab, namespace: str, fleet: Deployments, say: Say
) -> None:
    before = operator_restarts(lab)
    lab.submit(namespace, "long", hyperparameters=LONG, checkpoint=CHECKPOINT)
    lab.meet_at_step(namespace, "long", 25)

    def is_over() -> bool | None:
        try:
            return fleet.status(NAME).rollout is None or None
        except StepError:
            return None  # the API server has not caught up yet

    with fleet.load(NAME, rate=20) as load:
        steps = [{"weight": 25, "holdSeconds": 30}]
        fleet.apply(NAME, {"ANSWER": "better"}, rollout={"steps": steps})
        fleet.wait_for_canary_traffic(NAME)
        with no_answers(lab):
            time.sleep(AWAY_SECONDS)
        back = time.monotonic()
        until(is_over, 60, "the roll-out to go on")
        seconds = time.monotonic() - back
        time.sleep(2)
        answers = list(load.answers)
    say(
        f"{AWAY_SECONDS} s without API server: {len(answers)} requests, {len(failures(answers))}"
        f" failed, {by_revision(answers)}; promoted {seconds:.1f} s after it was back"
    )
    assert failures(answers) == []
    status = fleet.status(NAME)
    assert (status.phase, status.last_rollback) == ("Stable", None)
    assert status.stable is not None
    assert status.stable.revision == 2
    lab.wait_for(namespace, "long", "Complete", seconds=900)
    job = lab.status(namespace, "long")
    assert [a.reason for a in job.attempts] == ["Succeeded", "Succeeded"]
    assert (job.counters.failures, job.counters.disruptions) == (0, 0)
    assert operator_restarts(lab) == before
