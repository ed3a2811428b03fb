"""The second half of the demo: the tuned model serves, and a spoiled one is offered under load.

``roll_out`` needs what ``demo.tune`` has made, and goes on with its deployment or makes it anew.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

from rich.markup import escape

from deploy import figures
from deploy.cluster import Cluster
from deploy.display import console
from deploy.kubectl import Kubectl
from deploy.load import Load, question
from deploy.rollout_status import DeploymentStatus, Metric, Revision
from deploy.rollout_watch import Scene, Watch
from deploy.serving import (
    NAME,
    SERVICE_PORT,
    Served,
    ask_aloud,
    golden_prompts,
    look_at,
    text_of,
)
from deploy.settings import Settings
from deploy.shell import Log, StepError
from deploy.spoiled import ensure_spoiled, find_tuned, gguf_artifact
from deploy.storage import DEMO_NAMESPACE, Storage

# Two cores share them with the operator, the cluster and a second model.
REQUESTS_A_SECOND = 2.0
REQUEST_TOKENS = 24
VERDICT_SECONDS = 150
# After the rollback, so that an answer of the rejected revision that came too late would be seen.
AFTERWARDS_SECONDS = 3.0
POLL_SECONDS = 0.5


def roll_out(cluster: Cluster, settings: Settings, *, anew: bool) -> bool:
    """Serve the tuned model and offer a spoiled one; say whether that was refused unharmed.

    With ``anew`` the deployment is made again: one that has refused a version refuses it for good.
    """
    log = Log(settings.logs / "example-rollout.log")
    kubectl, storage = Kubectl(cluster, log), Storage(cluster)
    tuned = find_tuned(kubectl)
    gguf_artifact(tuned)
    version = str(tuned["metadata"]["name"])
    served = Served(kubectl)
    console.print(f"\n[bold]Serving {version}[/] with the ModelDeployment {NAME} (llama.cpp)")
    if anew:
        served.remove()
        served.follow_channel()
    with ThreadPoolExecutor(1) as pool:
        # A copy of the model goes there and back, while the pods of the good one start.
        spoiling = pool.submit(ensure_spoiled, kubectl, storage, tuned, log)
        served.wait_until_serving()
        spoiled = spoiling.result()
    with kubectl.forwarded(NAME, DEMO_NAMESPACE, SERVICE_PORT) as port:
        url = f"http://127.0.0.1:{port}"
        ask_aloud(url, golden_prompts())
        console.print(
            f"\n[bold]Offering {spoiled}[/] under {REQUESTS_A_SECOND:g} requests/s: the same model"
            "\nwith words that are not its tokenizer's. Nothing crashes; only its answers are bad."
        )
        return _offer(served, spoiled, url)


def _offer(served: Served, version: str, url: str) -> bool:
    """Offer a version under load and follow it to its end; print what it came to."""
    prompts = golden_prompts()

    def body(number: int) -> bytes:
        return question(prompts[number % len(prompts)].prompt, REQUEST_TOKENS)

    with Load(url, REQUESTS_A_SECOND, body) as load:
        served.offer(version)
        status, offered = follow(served, version, load)
        time.sleep(AFTERWARDS_SECONDS)
    counted = figures.count(load.answers, offered.name)
    said = text_of(load.newest(offered.name))
    if said:
        console.print(f"\nIt said, for example: [yellow]{escape(said)}[/]")
    figures.show(status, counted)
    wrong = figures.objections(status, offered, counted)
    for one in wrong:
        console.print(f"[red]✗ {escape(one)}[/]")
    where = f"-n {DEMO_NAMESPACE}"
    console.print(f"Look closer with: kubectl get mdep {NAME} {where} -o yaml")
    return not wrong


def follow(served: Served, version: str, load: Load) -> tuple[DeploymentStatus, Revision]:
    """Show the roll-out of ``version`` until it is refused or stable; return how it ended.

    Raises ``StepError`` when it is neither in time.
    """
    began = time.monotonic()
    offered: Revision | None = None
    metrics: tuple[Metric, ...] = ()
    with Watch() as watch:
        while time.monotonic() - began < VERDICT_SECONDS:
            status = served.status()
            if status.canary is not None and status.canary.version == version:
                offered = status.canary
            if status.rollout is not None and status.rollout.metrics:
                metrics = status.rollout.metrics
            seconds = time.monotonic() - began
            watch.show(Scene(f"Offering {version}", seconds, status, metrics, (), load.answers))
            if offered is not None and has_ended(status, offered):
                return status, offered
            time.sleep(POLL_SECONDS)
    raise StepError(f"{version} was neither refused nor taken in {VERDICT_SECONDS} s", look_at())


def has_ended(status: DeploymentStatus, offered: Revision) -> bool:
    """Whether the roll-out of a revision is over, one way or the other."""
    if status.rollout is not None or status.canary is not None:
        return False
    rollback, stable = status.last_rollback, status.stable
    is_refused = rollback is not None and rollback.from_revision == offered.revision
    return is_refused or (stable is not None and stable.revision == offered.revision)
