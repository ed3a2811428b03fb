"""Speaks to a cluster through ``kubectl`` and ``helm``, logging every call.

Everything outside ``native`` that touches the cluster goes through here. Answers are parsed as
JSON; a failing call raises ``StepError``.
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from deploy.cluster import Cluster
from deploy.shell import Log, StepError

Manifest = dict[str, Any]


class Kubectl:
    """One cluster, one log."""

    def __init__(self, cluster: Cluster, log: Log) -> None:
        """Speak to ``cluster`` and write to ``log``."""
        self._cluster = cluster
        self.log = log

    def run(self, *arguments: str, stdin: str = "", hint: str = "") -> str:
        """Run kubectl and return what it printed."""
        return self.log.run(self._command("kubectl", arguments), stdin=stdin, hint=hint)

    def helm(self, *arguments: str, hint: str = "") -> str:
        """Run helm and return what it printed."""
        return self.log.run(self._command("helm", arguments), hint=hint)

    def get(self, kind: str, name: str, namespace: str) -> Manifest | None:
        """Return an object, or nothing when there is none of that name."""
        arguments = ["get", kind, name, "-n", namespace, "-o", "json", "--ignore-not-found"]
        text = self._quietly(arguments)
        return json.loads(text) if text.strip() else None

    def list_all(self, kind: str, namespace: str, selector: str = "") -> list[Manifest]:
        """Return the objects of a kind in a namespace."""
        chosen = ["-l", selector] if selector else []
        text = self._quietly(["get", kind, "-n", namespace, "-o", "json", *chosen])
        return list(json.loads(text)["items"])

    def apply(self, text: str, **values: str) -> None:
        """Apply manifests server-side, with each ``${NAME}`` replaced by ``values``."""
        self.run("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=fill(text, values))

    def wait_for_rollout(self, deployment: str, namespace: str, seconds: int) -> None:
        """Wait until a deployment's pods are ready; on failure the log has their events."""
        command = ["rollout", "status", f"deployment/{deployment}", "-n", namespace]
        try:
            self.run(*command, f"--timeout={seconds}s")
        except StepError as error:
            self.run("describe", "pods", "-n", namespace)
            last = self.run("logs", f"deployment/{deployment}", "-n", namespace, "--tail=8")
            hint = f"kubectl describe pods -n {namespace}; it is in the log, too"
            raise StepError(
                f"{deployment} is not ready after {seconds} s:\n{last}", hint
            ) from error

    def proxy_get(self, path: str) -> str:
        """Return what the API server answers to GET ``path``."""
        return self._quietly(["get", "--raw", path])

    @contextlib.contextmanager
    def forwarded(self, service: str, namespace: str, port: int) -> Iterator[int]:
        """Yield a local port that leads to a service for as long as the block lasts."""
        arguments = ["port-forward", "-n", namespace, f"service/{service}", f":{port}"]
        with self._listening(arguments, f"kubectl cannot forward to service {service}") as local:
            yield local

    @contextlib.contextmanager
    def proxied(self) -> Iterator[int]:
        """Yield a local port that leads to the API server, with our rights, likewise."""
        with self._listening(["proxy", "--port=0"], "kubectl proxy does not start") as local:
            yield local

    @contextlib.contextmanager
    def _listening(self, arguments: list[str], complaint: str) -> Iterator[int]:
        """Run a kubectl that listens on this machine and says on which port."""
        process = subprocess.Popen(
            self._command("kubectl", arguments),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        try:
            assert process.stdout
            found = re.search(r"127\.0\.0\.1:(\d+)", process.stdout.readline())
            # It says a line for each connection, and would stop when nobody reads them.
            threading.Thread(target=process.stdout.read, daemon=True).start()
            if not found:
                raise StepError(complaint)
            yield int(found[1])
        finally:
            process.terminate()
            process.wait()

    def _quietly(self, arguments: list[str]) -> str:
        """Run kubectl without copying its answer into the log: it is long and asked for often."""
        command = self._command("kubectl", arguments)
        what = f"kubectl {' '.join(arguments[:4])}"
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        except subprocess.TimeoutExpired as error:
            raise StepError(f"{what}: no answer in a minute") from error
        if done.returncode != 0:
            raise StepError(f"{what}: {done.stderr.strip()}")
        return done.stdout

    def _command(self, program: str, arguments: list[str] | tuple[str, ...]) -> list[str]:
        kubeconfig = self._cluster.kubeconfig
        own = [f"--kubeconfig={kubeconfig}"] if kubeconfig else []
        return [self._cluster.program(program), *own, *arguments]


def manifest(name: str) -> str:
    """Return the text of a manifest of ``deploy/manifests``."""
    return (Path(__file__).parent / "manifests" / name).read_text()


def fill(text: str, values: Mapping[str, str]) -> str:
    """Replace each ``${NAME}``. Raises ``KeyError`` for a name without a value."""
    return re.sub(r"\$\{([A-Z_]+)\}", lambda found: values[found[1]], text)


def secret(name: str, namespace: str, values: Mapping[str, str]) -> str:
    """Return a Secret as JSON, which is YAML too."""
    metadata = {"name": name, "namespace": namespace}
    return json.dumps(
        {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": dict(values)}
    )
