"""The demo's second half: what it reads, shows, counts and concludes."""

import json
import math
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from deploy import figures, rollout_watch, serving
from deploy.kubectl import fill, manifest
from deploy.load import Answer, Load, question
from deploy.rollout import has_ended
from deploy.rollout_status import (
    DeploymentStatus,
    Metric,
    Revision,
    Rollback,
    Rollout,
    parse_status,
)
from deploy.rollout_watch import Scene, Watch
from deploy.shell import StepError
from tunesmith_api import deploymentstatus as contract
from tunesmith_api.analysis import Verdict
from tunesmith_api.meta import Condition
from tunesmith_api.modeldeployment import ModelDeployment

NOW = datetime(2026, 11, 21, 12, 0, 0, 250_000, tzinfo=UTC)
DIGEST = "sha256:" + "0" * 64
STABLE = Revision(revision=1, name="chat-a", version="v1", weight=75, ready_replicas=1)
CANARY = Revision(revision=2, name="chat-b", version="v1-spoiled", weight=25, ready_replicas=1)
QUALITY = Metric(name="quality", value="0.0", verdict="Fail", failures=1)
ROLLBACK = Rollback(
    from_revision=2,
    reason="AnalysisFailed",
    metric="quality",
    message="quality is 0.0, below 0.5",
    time=NOW,
    detected_after_seconds=11,
    restored_after_milliseconds=40,
    requests_served_by_rejected=6,
)
TRIAL = DeploymentStatus(
    phase="Analysing", stable=STABLE, canary=CANARY, rollout=Rollout(metrics=(QUALITY,))
)
REFUSED = DeploymentStatus(
    phase="RolledBack", stable=STABLE.model_copy(update={"weight": 100}), last_rollback=ROLLBACK
)


def answer(revision: str = "chat-a", code: int = 200, seconds: float = 0.5) -> Answer:
    trouble = "" if code == 200 else "refused"
    return Answer(sent=0.0, seconds=seconds, code=code, revision=revision, trouble=trouble)


def condition(
    kind: str, status: str, reason: str = "Because", message: str = "so"
) -> dict[str, str]:
    return {"type": kind, "status": status, "reason": reason, "message": message}


def drawn(scene: Scene) -> str:
    console = Console(width=110, file=None, record=True)
    with console.capture() as captured:
        console.print(rollout_watch.picture(scene))
    return captured.get()


# What is read


def test_what_is_read_is_what_the_contract_writes() -> None:
    metric = contract.MetricStatus(name="quality", value="0", verdict=Verdict.FAIL, failures=1)
    progressing = Condition(
        type="Progressing", status="True", reason="Analysing", message="x", last_transition_time=NOW
    )
    written = contract.ModelDeploymentStatus(
        observed_generation=4,
        phase=contract.RolloutPhase.ANALYSING,
        stable=contract.RevisionStatus(revision=1, name="a", digest=DIGEST, weight=75),
        canary=contract.RevisionStatus(
            revision=2, name="b", version="v2", digest=DIGEST, weight=25, ready_replicas=1
        ),
        conditions=(progressing,),
        rollout=contract.RolloutStatus(
            digest=DIGEST, plan=DIGEST, start_time=NOW, metrics=(metric,)
        ),
        last_rollback=contract.RollbackStatus(
            from_revision=3,
            to_revision=1,
            digest=DIGEST,
            reason=contract.RollbackReason.ANALYSIS_FAILED,
            time=NOW,
            restored_after_milliseconds=40,
            requests_served_by_rejected=6,
        ),
        last_revision=3,
    )
    body = {"status": json.loads(written.model_dump_json(by_alias=True, exclude_none=True))}
    read = parse_status(body)
    assert (read.observed_generation, read.phase, read.last_revision) == (4, "Analysing", 3)
    assert read.stable is not None
    assert read.stable.weight == 75
    assert read.canary == Revision(revision=2, name="b", version="v2", weight=25, ready_replicas=1)
    assert read.rollout is not None
    assert read.rollout.metrics == (Metric(name="quality", value="0", verdict="Fail", failures=1),)
    assert read.is_true("Progressing")
    assert not read.is_true("Stalled")
    assert read.last_rollback is not None
    assert read.last_rollback.time == NOW
    assert read.last_rollback.requests_served_by_rejected == 6


@pytest.mark.parametrize("body", [None, {}, {"status": {}}])
def test_an_object_without_a_status_is_pending(body: dict[str, object] | None) -> None:
    assert parse_status(body).phase == "Pending"


def test_what_the_demo_offers_is_judged_by_its_words_on_the_same_engine() -> None:
    config = yaml.safe_load(manifest("prompts.yaml"))
    patch = yaml.safe_load(fill(manifest("offer.yaml"), {"VERSION": "x-v1"}))["spec"]
    assert set(patch) == {"source", "rollout"}, "another engine would be judged with it"
    example = next(yaml.safe_load_all(serving.EXAMPLE.read_text()))
    assert example["metadata"]["name"] == serving.NAME
    assert set(patch["source"]) >= set(example["spec"]["source"]), "a union of two members"
    source = {name: value for name, value in patch["source"].items() if value}
    spec = {**example["spec"], "source": source, "rollout": patch["rollout"]}
    deployment = ModelDeployment.model_validate({**example, "spec": spec})
    golden = deployment.spec.rollout.analysis.metrics[0].golden_prompts
    assert golden is not None
    assert golden.config_map_ref.name == config["metadata"]["name"]
    assert golden.config_map_ref.key in config["data"]


def test_golden_prompts_are_trained_on_and_their_words_are_in_the_answers() -> None:
    data = Path(__file__).parents[2] / "examples" / "data" / "about-tunesmith.jsonl"
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    taught = {row["prompt"]: row["response"] for row in rows}
    prompts = serving.golden_prompts()
    assert len(prompts) >= 2
    for one in prompts:
        assert one.answer in taught[one.prompt]
        assert one.answer.casefold() not in one.prompt.casefold(), "an echo must not be right"


# What is shown


def test_a_picture_has_weights_metrics_pods_and_what_each_revision_answered() -> None:
    answers = [answer(), answer(), answer("chat-b"), answer("chat-b", 500)]
    pods = ("chat-b-1: ready",)
    text = drawn(Scene("Offering v1-spoiled", 12.4, TRIAL, (QUALITY,), pods, answers))
    lines = text.splitlines()
    assert lines[0].split() == ["Offering", "v1-spoiled", "12", "s", "Analysing"]
    stable = next(line for line in lines if "stable" in line)
    canary = next(line for line in lines if "canary" in line)
    assert "75 %" in stable
    assert "2 answered, 0 failed" in stable
    assert "25 %" in canary
    assert "2 answered, 1 failed" in canary
    assert stable.count("━") > 2 * canary.count("━") or "━" in stable
    assert any("quality" in line and "Fail" in line and "failed 1 times" in line for line in lines)
    assert any("chat-b-1: ready" in line for line in lines)


def test_a_picture_of_nothing_yet_can_be_drawn() -> None:
    assert "Pending" in drawn(Scene("Serving chat", 0.0, DeploymentStatus()))


def test_text_of_a_cluster_is_no_markup() -> None:
    status = parse_status({"status": {"conditions": [condition("Ready", "False", message="[/x]")]}})
    assert "[/x]" in drawn(Scene("Serving chat", 0.0, status))


def test_a_line_leaves_out_what_changes_all_the_time() -> None:
    early = Scene("Offering", 3.0, TRIAL, (QUALITY,), (), [answer()])
    late = Scene("Offering", 4.0, TRIAL, (QUALITY,), (), [answer(), answer()])
    assert rollout_watch.line(early) == rollout_watch.line(late)
    assert rollout_watch.line(early) == "Analysing, stable 75 %, canary 25 %, quality 0.0 Fail"


def test_without_a_terminal_only_news_is_said_and_a_sign_of_life(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with Watch() as watch:
        for second in range(20):
            watch.show(Scene("Offering", float(second), TRIAL, (), (), [answer("chat-b", 500)]))
        watch.show(Scene("Offering", 20.0, REFUSED))
    said = capsys.readouterr().out.splitlines()
    assert [line[1:7].strip() for line in said] == ["0.0", "15.0", "20.0"]
    assert said[0].endswith("canary 25 %; 1 requests answered, 1 failed")
    assert said[2].endswith("RolledBack, stable 100 %")


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        pytest.param([], "", id="nothing is known"),
        pytest.param(
            [
                condition("Ready", "False", "NoRevision"),
                condition("Progressing", "True", "Waiting"),
            ],
            "Waiting: so",
            id="what is going on comes before what is not ready",
        ),
        pytest.param(
            [condition("Ready", "True"), condition("RolledBack", "True", "AnalysisFailed")],
            "AnalysisFailed: so",
            id="a rollback comes first",
        ),
        pytest.param(
            [condition("Ready", "True", "Serving"), condition("RolledBack", "False")],
            "Serving: so",
            id="a rollback that is not is no news",
        ),
    ],
)
def test_the_news_of_a_status(conditions: list[dict[str, str]], expected: str) -> None:
    assert rollout_watch.news(parse_status({"status": {"conditions": conditions}})) == expected


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        pytest.param({}, "p: Pending", id="nothing is known of it"),
        pytest.param(
            {
                "phase": "Pending",
                "initContainerStatuses": [{"name": "fetch", "state": {"running": {}}}],
                "containerStatuses": [
                    {"name": "engine", "state": {"waiting": {"reason": "PodInitializing"}}}
                ],
            },
            "p: engine PodInitializing",
            id="what a container waits for",
        ),
        pytest.param(
            {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
            "p: ready",
            id="ready",
        ),
        pytest.param(
            {"phase": "Running", "conditions": [{"type": "Ready", "status": "False"}]},
            "p: Running",
            id="it runs and is not ready",
        ),
    ],
)
def test_a_pod_in_words(status: dict[str, object], expected: str) -> None:
    assert serving.sentence({"metadata": {"name": "p"}, "status": status}) == expected


# What is counted and concluded


def test_failures_count_for_stable_unless_the_canary_answered() -> None:
    answers = [
        answer(seconds=0.1),
        answer(seconds=0.2),
        answer("chat-b", seconds=0.3),
        answer("chat-b", 500, 9.0),
        answer("chat-a", 503, 9.0),
        answer("", 0, 9.0),
    ]
    counted = figures.count(answers, "chat-b")
    assert (counted.sent, counted.failed, counted.failed_by_stable) == (6, 3, 2)
    assert counted.answered_by_canary == 2
    assert (counted.p50, counted.p95) == (0.2, 0.3)


def test_without_answers_there_is_no_latency() -> None:
    counted = figures.count([], "")
    assert counted.sent == counted.failed_by_stable == 0
    assert math.isnan(counted.p50)


@pytest.mark.parametrize(
    ("status", "answers", "expected"),
    [
        pytest.param(REFUSED, [answer(), answer("chat-b")], [], id="refused, nobody was failed"),
        pytest.param(
            REFUSED, [answer("chat-b", 500)], [], id="what the canary failed is the canary's"
        ),
        pytest.param(
            REFUSED,
            [answer("chat-a", 502), answer("", 0), answer("", 0), answer(CANARY.name, 500)],
            [
                "3 requests failed that the canary did not answer",
                "2 x no answer: refused",
                "1 x 502: refused",
            ],
            id="stable failed somebody",
        ),
        pytest.param(
            DeploymentStatus(phase="Stable", stable=CANARY),
            [answer()],
            ["revision 2 was not rolled back: Stable"],
            id="it was promoted",
        ),
        pytest.param(
            REFUSED.model_copy(
                update={"last_rollback": ROLLBACK.model_copy(update={"from_revision": 1})}
            ),
            [answer()],
            ["revision 2 was not rolled back: RolledBack"],
            id="another one was rolled back",
        ),
        pytest.param(
            REFUSED.model_copy(
                update={
                    "last_rollback": ROLLBACK.model_copy(
                        update={"restored_after_milliseconds": None}
                    )
                }
            ),
            [answer()],
            ["the rejected revision still has traffic"],
            id="it still has traffic",
        ),
    ],
)
def test_the_end_of_the_demo_is_good_only_if_the_bad_one_was_refused_and_stable_failed_nobody(
    status: DeploymentStatus, answers: list[Answer], expected: list[str]
) -> None:
    counted = figures.count(answers, CANARY.name)
    assert figures.objections(status, CANARY, counted) == expected


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        pytest.param(TRIAL, False, id="it is on trial"),
        pytest.param(
            REFUSED.model_copy(update={"canary": CANARY}), False, id="its traffic is going back"
        ),
        pytest.param(REFUSED, True, id="it was refused"),
        pytest.param(DeploymentStatus(stable=CANARY), True, id="it was promoted"),
        pytest.param(DeploymentStatus(stable=STABLE), False, id="it has not begun"),
    ],
)
def test_when_a_rollout_is_over(status: DeploymentStatus, expected: bool) -> None:
    assert has_ended(status, CANARY) is expected


def test_serving_is_stable_ready_and_no_rollout() -> None:
    ready = parse_status(
        {"status": {"phase": "Stable", "conditions": [condition("Ready", "True")]}}
    )
    assert not serving.is_serving(ready)
    assert serving.is_serving(ready.model_copy(update={"stable": STABLE}))
    trial = ready.model_copy(update={"stable": STABLE, "rollout": Rollout()})
    assert not serving.is_serving(trial)


# What is asked


class Engine(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = asked["messages"][0]["content"]
        content = {"choices": [{"message": {"content": f" You said\n{prompt} "}}]}
        body = json.dumps(content).encode()
        self.send_response(500 if "fail" in prompt else 200)
        self.send_header("x-tunesmith-revision", "chat-a")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Engine)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_load_remembers_what_each_revision_said_last(url: str) -> None:
    with Load(url, 200, lambda number: question(f"question {number}")) as load:
        while len(load.answers) < 3:
            time.sleep(0.01)
    assert all(one.is_good and one.revision == "chat-a" for one in load.answers)
    assert serving.text_of(load.newest("chat-a")).startswith("You said question ")
    assert load.newest("chat-b") == b""


def test_answers_are_printed_and_a_wrong_one_is_marked(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = [serving.GoldenPrompt("What [is] it?", "IT"), serving.GoldenPrompt("And?", "gate")]
    serving.ask_aloud(url, prompts)
    said = capsys.readouterr().out
    assert "You said What [is] it?" in said
    assert said.count("without the word") == 1
    assert "'gate'" in said


def test_an_answer_that_is_an_error_says_where_to_look(url: str) -> None:
    with pytest.raises(StepError, match="answered 500") as caught:
        serving.ask_aloud(url, [serving.GoldenPrompt("fail", "x")])
    assert "kubectl describe mdep about-tunesmith" in caught.value.hint


@pytest.mark.parametrize("body", [b"", b"no json", b"{}", b'{"choices": []}', b'{"choices": 1}'])
def test_what_is_no_completion_has_no_text(body: bytes) -> None:
    assert serving.text_of(body) == ""
