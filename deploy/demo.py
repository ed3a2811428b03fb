"""The demo from a bare machine to a tuned model: what is done, and in which order.

``prepare`` brings up everything around the operator, side by side; ``tune`` applies the example
job and watches it. Both may be repeated: what is there is used.
"""

from __future__ import annotations

import time

import yaml

from deploy import release
from deploy.basemodel.prepare import ensure_model
from deploy.cluster import Cluster
from deploy.display import console, report, shown
from deploy.images import NAMES, ensure_image, reference, write_references
from deploy.kubectl import Kubectl
from deploy.locks import locked
from deploy.native.binaries import missing_binaries
from deploy.results import show_results
from deploy.serving import Served, apply_aloud
from deploy.settings import REPOSITORY, Settings
from deploy.shell import Log
from deploy.steps import Step, run_steps
from deploy.storage import DEMO_NAMESPACE, Storage
from deploy.watch import watch

EXAMPLE = REPOSITORY / "examples" / "finetunejob.yaml"


def prepare(cluster: Cluster, settings: Settings, *, operator: bool) -> bool:
    """Bring the cluster up, with ``operator`` all that the demo needs; say whether it worked."""
    steps = cluster.steps()
    if operator:
        steps += surroundings(cluster, settings)
    return run_shown(steps, settings)


def run_shown(steps: list[Step], settings: Settings) -> bool:
    """Run steps, alone on this cache, and show how they go; say whether all worked."""
    waiting = "another deploy command is at work here, waiting for it to end"
    with locked(settings.cache / ".deploy.lock", waiting), shown() as on_tick:
        outcome = run_steps(steps, settings.logs, on_tick)
    report(outcome)
    return not outcome.failed


def surroundings(cluster: Cluster, settings: Settings) -> list[Step]:
    """Return the steps from a bare cluster to a ready operator and a filled bucket."""
    storage = Storage(cluster)

    def upload_model(log: Log) -> None:
        storage.upload_model(ensure_model(settings, log), log)

    return [
        *image_steps(cluster, settings),
        *cluster.serving_steps(),
        Step("S3 image", cluster.make_storage_image, ("image building", "cluster")),
        Step("S3 server", storage.start, ("S3 image", "cluster")),
        Step("base model", lambda log: _ignore(ensure_model(settings, log))),
        Step("base model to S3", upload_model, ("base model", "S3 server")),
        Step("example data to S3", storage.upload_examples, ("S3 server",)),
        Step("CRDs", lambda log: release.install_crds(cluster, log), ("cluster",)),
        Step(
            "operator",
            lambda log: release.install_operator(cluster, log),
            ("CRDs", "operator image"),
        ),
        Step(
            "trainer image on the node",
            lambda log: _pull(cluster, log),
            ("trainer image", "cluster"),
        ),
    ]


def image_steps(cluster: Cluster, settings: Settings) -> list[Step]:
    """Return the steps that build the operator's and the trainer's image."""

    def build(name: str) -> Step:
        def work(log: Log) -> None:
            ensure_image(name, cluster.builder, log)
            write_references(settings.references, cluster.builder.registry)

        return Step(f"{name} image", work, ("image building",))

    return [build(name) for name in NAMES]


def tune(cluster: Cluster, settings: Settings) -> bool:
    """Run the example job and show what came of it; say whether it got a version.

    A job of the same name from an earlier run is deleted first: its inputs cannot be changed, and
    a fresh run is what the person wants to see. Its ModelVersion stays, the new one counts on. So
    is the deployment, which has no pods until the job offers it a version.
    """
    log = Log(settings.logs / "example-job.log")
    kubectl = Kubectl(cluster, log)
    name = str(yaml.safe_load(EXAMPLE.read_text())["metadata"]["name"])
    kubectl.run("delete", "finetunejob", name, "-n", DEMO_NAMESPACE, "--ignore-not-found", "--wait")
    served = Served(kubectl)
    served.remove()
    served.follow_channel()
    apply_aloud(kubectl, EXAMPLE)
    applied = time.monotonic()
    timeline = watch(kubectl, name, DEMO_NAMESPACE, applied)
    show_results(kubectl, Storage(cluster), timeline, name, DEMO_NAMESPACE)
    return timeline.succeeded


def introduce(cluster: Cluster, why: str, settings: Settings) -> None:
    """Say what is going to happen and about how long it takes."""
    console.print(f"[bold]Tunesmith demo[/] on a {cluster.name} cluster ({why})")
    console.print(
        "It brings up a throw-away Kubernetes and an S3 server, builds the operator's and the\n"
        "trainer's images, installs the operator, and lets it fine-tune a small language model.\n"
        "Then the tuned model serves, and a spoiled one is offered under load and refused."
    )
    unbuilt = missing_binaries() if cluster.name == "native" else []
    first = "15 minutes on two cores: the first time builds Kubernetes and all images"
    again = "5 minutes, and more where images are still to be built"
    console.print(f"About {first if unbuilt else again}. Logs of the steps: {settings.logs}\n")


def _pull(cluster: Cluster, log: Log) -> None:
    """Have a node fetch the trainer's image while other things are still going on."""
    kubectl = Kubectl(cluster, log)
    image = reference("trainer", cluster.builder.registry)
    where = ["-n", "default"]
    kubectl.run("delete", "pod", "fetch-trainer", *where, "--ignore-not-found")
    start = ["run", "fetch-trainer", *where, f"--image={image}", "--restart=Never"]
    kubectl.run(*start, "--command", "--", "python", "-c", "pass")
    done = "--for=jsonpath={.status.phase}=Succeeded"
    kubectl.run("wait", "pod/fetch-trainer", *where, done, "--timeout=600s")
    kubectl.run("delete", "pod", "fetch-trainer", *where)


def _ignore(_: object) -> None:
    """Steps return nothing."""
