"""The demo's served model: applied, waited for, and asked questions over its Service.

Called by ``rollout``. Waiting is bounded, and whoever waits sees what for.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from rich.markup import escape

from deploy.display import console
from deploy.kubectl import Kubectl, Manifest, fill, manifest
from deploy.load import ask, question
from deploy.rollout_status import DeploymentStatus, parse_status
from deploy.rollout_watch import Scene, Watch
from deploy.settings import REPOSITORY
from deploy.shell import StepError
from deploy.storage import DEMO_NAMESPACE

EXAMPLE = REPOSITORY / "examples" / "modeldeployment.yaml"
NAME = "about-tunesmith"
SERVICE_PORT = 80
POLL_SECONDS = 1.0
SERVING_SECONDS = 240
# Longer than the operator may take to see a ModelVersion that was made just now.
STALLED_SECONDS = 20
UNHAPPY_SECONDS = 30
REMOVAL_SECONDS = 150
ANSWER_TOKENS = 48


@dataclass(frozen=True)
class GoldenPrompt:
    """A question, and a word that a right answer has."""

    prompt: str
    answer: str


class Served:
    """The ModelDeployment of the demo."""

    def __init__(self, kubectl: Kubectl) -> None:
        """Speak to its cluster through ``kubectl``."""
        self._kubectl = kubectl
        self._answered = time.monotonic()
        self._last = DeploymentStatus()

    def remove(self) -> None:
        """Delete what an earlier run left: it remembers what it rejected, and must not here.

        Its pods go first, so that the new one's are not taken for them.
        """
        name = ("modeldeployment", NAME, "-n", DEMO_NAMESPACE)
        how = ("--ignore-not-found", "--cascade=foreground", f"--timeout={REMOVAL_SECONDS}s")
        self._kubectl.run("delete", *name, *how, hint=look_at())

    def follow_channel(self) -> None:
        """Apply the example: it serves what its channel offers, once there is something."""
        apply_aloud(self._kubectl, EXAMPLE)

    def offer(self, version: str) -> None:
        """Ask for a certain version instead, judged in seconds."""
        self._kubectl.apply(manifest("prompts.yaml"))
        patch = json.dumps(yaml.safe_load(fill(manifest("offer.yaml"), {"VERSION": version})))
        where = ("modeldeployment", NAME, "-n", DEMO_NAMESPACE)
        self._kubectl.run("patch", *where, "--type=merge", f"--patch={patch}")

    def status(self) -> DeploymentStatus:
        """Read the status. An API server that is away for a moment changes nothing."""
        try:
            body = self._kubectl.get("modeldeployment", NAME, DEMO_NAMESPACE)
        except StepError:
            if time.monotonic() - self._answered > UNHAPPY_SECONDS:
                raise
            return self._last
        self._answered = time.monotonic()
        self._last = parse_status(body)
        return self._last

    def wait_until_serving(self) -> None:
        """Wait until the first revision is stable and has all requests, and show how it gets there.

        Raises ``StepError`` when it does not in time, or says that it never will.
        """
        began = time.monotonic()
        stalled: float | None = None
        with Watch() as watch:
            while True:
                status, now = self.status(), time.monotonic()
                pods = self._pods()
                watch.show(Scene(f"Serving {NAME}", now - began, status, pods=pods))
                if is_serving(status):
                    return
                stalled = (stalled or now) if status.is_true("Stalled") else None
                if stalled is not None and now - stalled > STALLED_SECONDS:
                    found = status.condition("Stalled")
                    raise StepError(found.message if found else "stalled", look_at())
                if now - began > SERVING_SECONDS:
                    raise StepError(
                        f"{NAME} does not serve after {SERVING_SECONDS} s; pods: {', '.join(pods)}",
                        look_at(),
                    )
                time.sleep(POLL_SECONDS)

    def _pods(self) -> list[str]:
        try:
            selector = f"tunesmith.dev/deployment={NAME}"
            return [
                sentence(pod) for pod in self._kubectl.list_all("pods", DEMO_NAMESPACE, selector)
            ]
        except StepError:
            # Only shown; whether anything is wrong says the status.
            return []


def apply_aloud(kubectl: Kubectl, file: Path) -> None:
    """Apply a file of the repository and show the command."""
    console.print(f"\n[bold]kubectl apply -f {file.relative_to(REPOSITORY)}[/]")
    kubectl.run("apply", "-f", str(file))


def is_serving(status: DeploymentStatus) -> bool:
    """Whether a revision is stable and has all of the traffic."""
    is_stable = status.stable is not None and status.rollout is None
    return is_stable and status.phase == "Stable" and status.is_true("Ready")


def golden_prompts() -> list[GoldenPrompt]:
    """Return the questions that an offered version is judged by."""
    lines = yaml.safe_load(manifest("prompts.yaml"))["data"]["prompts.jsonl"].splitlines()
    return [GoldenPrompt(**json.loads(line)) for line in lines]


def ask_aloud(url: str, prompts: Sequence[GoldenPrompt]) -> None:
    """Ask and print questions, answers and how long they took.

    Raises ``StepError`` for an answer that is an error; a wrong one is only marked.
    """
    for one in prompts:
        answer, body = ask(url, question(one.prompt, ANSWER_TOKENS))
        if not answer.is_good:
            raise StepError(f"{url} answered {answer.code}: {answer.trouble}", look_at())
        said = text_of(body)
        is_right = one.answer.casefold() in said.casefold()
        mark = "" if is_right else f" [yellow](without the word {one.answer!r})[/]"
        console.print(f"\n[bold]{escape(one.prompt)}[/]")
        console.print(f"  [green]{escape(said)}[/] [dim]({answer.seconds:.1f} s)[/]{mark}")


def text_of(body: bytes) -> str:
    """Return the text of a chat completion on one line, or nothing where it is none."""
    try:
        content = json.loads(body)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError):
        return ""
    return " ".join(str(content or "").split())


def sentence(pod: Manifest) -> str:
    """Say of a pod how far it is."""
    status = pod.get("status", {})
    containers = [
        *status.get("initContainerStatuses", []),
        *status.get("containerStatuses", []),
    ]
    waiting = [
        f"{one['name']} {one['state']['waiting'].get('reason', '')}"
        for one in containers
        if "waiting" in one.get("state", {})
    ]
    ready = any(
        one["type"] == "Ready" and one["status"] == "True" for one in status.get("conditions", [])
    )
    state = "ready" if ready else ", ".join(waiting[:1]) or str(status.get("phase", "Pending"))
    return f"{pod['metadata']['name']}: {state}"


def look_at() -> str:
    """Return where to look when something is wrong."""
    where = f"-n {DEMO_NAMESPACE}"
    return f"kubectl describe mdep {NAME} {where}; kubectl get pods {where}"
