"""The commands: ``python -m deploy up | down | images | demo | demo-rollout | clean-demo | …``."""

from __future__ import annotations

import argparse
import os
import signal
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from deploy import demo, release, rollout
from deploy.cluster import KINDS, Cluster, choose_cluster, forget_choice
from deploy.display import console
from deploy.docker import Docker
from deploy.images import forget_references
from deploy.native.apiserver import ControlPlane
from deploy.native.binaries import ensure_binaries
from deploy.native.host import install_test_packages
from deploy.native.roots import llama_server
from deploy.removal import remove_caches
from deploy.settings import Settings, read_settings
from deploy.shell import Log, StepError
from deploy.steps import Step
from deploy.vllm import ensure_vllm


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit code."""
    options = _parser().parse_args(arguments)
    # `kill` must clean up as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        settings = read_settings()
        if getattr(options, "cluster", None):
            settings = replace(settings, cluster=options.cluster)
        return 0 if _run(options, settings) else 1
    except StepError as error:
        console.print(f"[red]{error}[/]")
        if error.hint:
            console.print(f"what to do: {error.hint}", soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        console.print("\ninterrupted; the same command again goes on from here")
        # Threads may still wait for programs that do not end: nobody wants to wait for them.
        os._exit(130)


def _run(options: argparse.Namespace, settings: Settings) -> bool:
    if options.command == "apiserver":
        return _run_apiserver(options)
    if options.command == "test-tools":
        return _get_test_tools(options, settings)
    return _run_on_cluster(options, settings)


def _run_on_cluster(options: argparse.Namespace, settings: Settings) -> bool:
    cluster, why = choose_cluster(settings)
    if options.command != "demo":
        console.print(f"cluster: {cluster.name} ({why})")
    match options.command:
        case "demo":
            demo.introduce(cluster, why, settings)
            ready = demo.prepare(cluster, settings, operator=True)
            return (
                ready
                and demo.tune(cluster, settings)
                and rollout.roll_out(cluster, settings, anew=False)
            )
        case "demo-rollout":
            return rollout.roll_out(cluster, settings, anew=True)
        case "up":
            return _bring_up(cluster, settings, options)
        case "images":
            steps = [*cluster.steps(), *demo.image_steps(cluster, settings)]
            return demo.run_shown(_needed(steps, "operator image", "trainer image"), settings)
        case _:
            return _remove(cluster, settings, options)


def _bring_up(cluster: Cluster, settings: Settings, options: argparse.Namespace) -> bool:
    worked = demo.prepare(cluster, settings, operator=options.operator)
    if worked and cluster.kubeconfig:
        console.print(f"export KUBECONFIG={cluster.kubeconfig}")
    return worked


def _get_test_tools(options: argparse.Namespace, settings: Settings) -> bool:
    install_test_packages(Log(settings.logs / "test-packages.log"))
    ensure_binaries(options.names)
    if options.llama_server:
        print(llama_server(settings.cache, Log(settings.logs / "llama-server.log")))
    if options.vllm:
        print(ensure_vllm(settings.cache, Log(settings.logs / "vllm.log")))
    return True


def _remove(cluster: Cluster, settings: Settings, options: argparse.Namespace) -> bool:
    steps = list(cluster.down())
    if cluster.name == "current":
        steps = [Step("remove the demo", lambda log: release.uninstall(cluster, log))]
    last = tuple(step.name for step in steps)
    forget_references(settings.references)
    if options.caches:
        if isinstance(cluster.builder, Docker):
            steps.append(Step("remove images", cluster.builder.remove_images, last))
        steps.append(Step("remove caches", lambda log: remove_caches(settings.cache, log), last))
    removed = demo.run_shown(steps, settings)
    if removed:
        forget_choice(settings)
    return removed


def _needed(steps: list[Step], *names: str) -> list[Step]:
    """Return ``names`` and what they need, in the order of ``steps``."""
    by_name = {step.name: step for step in steps}
    wanted, open_names = set[str](), list(names)
    while open_names:
        name = open_names.pop()
        wanted.add(name)
        open_names += by_name[name].needs
    return [step for step in steps if step.name in wanted]


def _run_apiserver(options: argparse.Namespace) -> bool:
    with ControlPlane(options.dir, controllers=options.controllers, port=options.port) as plane:
        print(f"export KUBECONFIG={plane.kubeconfig}", flush=True)
        threading.Event().wait()
    return True


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m deploy", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, help_text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=help_text)
        added.add_argument("--cluster", choices=("auto", *KINDS), help="default: $CLUSTER, or auto")
        return added

    up = command("up", "bring up a throw-away cluster")
    up.add_argument("--operator", action="store_true", help="with S3, images and the operator")
    command("images", "build the images and push them to the cluster's registry")
    command("demo", "all of it: cluster, images, S3, operator, a fine-tuned model, a roll-out")
    command("demo-rollout", "the demo's second half, on a demo that is up")
    for name in ("down", "clean-demo"):
        down = command(name, "remove the cluster and all that is in it")
        down.add_argument("--caches", action="store_true", help="also what only takes time to make")
    tools = commands.add_parser("test-tools", help="what the tests run beside Python")
    tools.add_argument("names", nargs="*", help="programs to build unless the cache has them")
    tools.add_argument(
        "--llama-server", action="store_true", help="llama.cpp's server too; prints its path"
    )
    tools.add_argument("--vllm", action="store_true", help="vLLM for CPUs too; prints its path")
    alone = commands.add_parser("apiserver", help="only etcd and the API server, until Ctrl-C")
    alone.add_argument("--dir", type=Path, required=True, help="folder of its data and kubeconfig")
    alone.add_argument("--port", type=int, default=0, help="default: any free port")
    alone.add_argument("--controllers", action="store_true", help="also run Jobs and garbage")
    return parser
