"""A real Gateway for tests: Contour reads the routes, Envoy carries the requests.

Both are plain processes beside the API server. An EndpointSlice must not name a loopback address,
so a test moves into a network of its own first, where all of 10.0.0.0/8 is itself. There is no
kubelet, so ``play_endpoints`` does what the controller of EndpointSlices would.
"""

import asyncio
import contextlib
import ctypes
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.native.apiserver import ControlPlane, start_program, stop_program
from deploy.native.binaries import fetch_module, find_binary
from deploy.shell import Log, StepError
from tests.integration.serving import ENGINE_PORT
from tunesmith_api.labels import LABEL_MANAGED_BY, MANAGED_BY
from tunesmith_operator.kube.client import KubeClient
from tunesmith_operator.kube.kinds import Object
from tunesmith_operator.kube.transport import Request

FIRST = 10
"""Addresses of pods begin with it."""
GATEWAY_API = "sigs.k8s.io/gateway-api@v1.3.0"
CONTOUR = "github.com/projectcontour/contour@v1.33.8"
NAMESPACE = "gateways"
NAME = "edge"
PARENT = {"name": NAME, "namespace": NAMESPACE}
_PORT = 80
# Contour adds this to a listener's port: its Envoy runs without privileges.
URL = f"http://127.0.0.1:{_PORT + 8000}"
_OBJECTS = f"""
apiVersion: v1
kind: Namespace
metadata: {{name: {NAMESPACE}}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {{name: contour}}
spec: {{controllerName: projectcontour.io/gateway-controller}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: {NAME}, namespace: {NAMESPACE}}}
spec:
  gatewayClassName: contour
  listeners:
    - {{name: http, protocol: HTTP, port: {_PORT}, allowedRoutes: {{namespaces: {{from: All}}}}}}
"""
_CONFIGURATION = f"""
gateway:
  gatewayRef: {{name: {NAME}, namespace: {NAMESPACE}}}
"""
_OPTIONAL = ("extensionservices", "tlsroutes", "tcproutes", "backendtlspolicies")
# The API server advertises the address of the default route.
_OWN_NETWORK = ("link set lo up", f"address add {FIRST}.0.0.1/8 dev lo", "route add default dev lo")
_CLONE_NEWNET = 0x40000000
_LIBC = ctypes.CDLL(None, use_errno=True)


def fetch_crds(folder: Path, module: str, path: str) -> Path:
    """Give CRDs out of a Go module, checked by Go against its public database; else skip."""
    try:
        return fetch_module(module, Log(folder / "go.log")) / path
    except StepError as error:
        pytest.skip(f"the CRDs of {module} cannot be had: {error}")


@contextlib.contextmanager
def own_network() -> Iterator[None]:
    """Move this thread, and what it starts from here on, into a network that leads nowhere."""
    with Path("/proc/thread-self/ns/net").open() as before:
        if _LIBC.unshare(_CLONE_NEWNET) != 0:
            pytest.skip(f"a network of its own needs root: {os.strerror(ctypes.get_errno())}")
        try:
            for command in _OWN_NETWORK:
                subprocess.run(["ip", *command.split()], check=True)
            yield
        finally:
            _LIBC.setns(before.fileno(), _CLONE_NEWNET)


class Gateway:
    """Contour and Envoy, stopped on leaving the ``with`` block."""

    def __init__(self, folder: Path, plane: ControlPlane) -> None:
        self.plane = plane
        self._folder = folder
        self._running = contextlib.ExitStack()
        self._contour: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Gateway":
        self.plane.kubectl("apply", "-f", "-", stdin=_OBJECTS)
        configuration, bootstrap = self._folder / "contour.yaml", self._folder / "envoy.json"
        configuration.write_text(_CONFIGURATION)
        contour, envoy = find_binary("contour"), find_binary("envoy")
        xds = ["--xds-address=127.0.0.1", "--xds-port=8001"]
        admin = f"--admin-address={self._folder}/admin.sock"
        subprocess.run([str(contour), "bootstrap", *xds, admin, str(bootstrap)], check=True)
        serve = [contour, "serve", "--insecure", "--disable-leader-election", *xds]
        # On all addresses otherwise, where the pods want to listen.
        serve += ["--health-address=127.0.0.1", "--http-address=127.0.0.1"]
        serve += [f"--disable-feature={feature}" for feature in _OPTIONAL]
        serve += [f"--kubeconfig={self.plane.kubeconfig}", f"--config-path={configuration}"]
        self._contour = self._start("contour", serve)
        options = ["--disable-hot-restart", "--concurrency", "1", "--log-level", "warning"]
        node = ["--service-cluster", "contour", "--service-node", "envoy"]
        self._start("envoy", [envoy, "--config-path", bootstrap, *options, *node])
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()

    def _start(self, name: str, command: list[object]) -> subprocess.Popen[bytes]:
        process = start_program(command, self._folder / f"{name}.log")
        self._running.callback(stop_program, process)
        return process

    def signal_contour(self, number: int) -> None:
        """Stop Contour, or let it go on; Envoy does meanwhile what it was told last."""
        assert self._contour is not None
        self._contour.send_signal(number)


@contextlib.contextmanager
def real_gateway(folder: Path) -> Iterator[Gateway]:
    """Run all of it with a control plane of its own; skip where it cannot be had."""
    if find_binary("contour") is None or find_binary("envoy") is None:
        pytest.skip("Contour or Envoy is not there: `make test-gateway` gets them")
    crds = [
        fetch_crds(folder, GATEWAY_API, "config/crd/standard"),
        fetch_crds(folder, CONTOUR, "examples/contour/01-crds.yaml"),
    ]
    own = Path(__file__).parents[2] / "crds"
    with own_network(), ControlPlane(folder) as plane:
        plane.install_crds(own, *crds)
        with Gateway(folder, plane) as gateway:
            yield gateway


async def play_endpoints(kube: KubeClient, namespace: str) -> None:
    """Say in EndpointSlices which pods behind each Service are ready."""
    written: dict[str, Object] = {}
    while True:
        pods = await kube.list("Pod", namespace)
        for service in await kube.list("Service", namespace, f"{LABEL_MANAGED_BY}={MANAGED_BY}"):
            body = _slice(service, pods)
            name = body["metadata"]["name"]
            if written.get(name) != body:
                await _apply_slice(kube, body)
                written[name] = body
        await asyncio.sleep(0.05)


def _slice(service: Object, pods: list[Object]) -> Object:
    meta, selector = service["metadata"], service["spec"]["selector"]
    endpoints = [
        {"addresses": [pod["status"]["podIP"]], "conditions": {"ready": True}}
        for pod in pods
        if selector.items() <= pod["metadata"]["labels"].items() and _is_ready(pod)
    ]
    (port,) = service["spec"]["ports"]
    assert port["targetPort"] == ENGINE_PORT
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "namespace": meta["namespace"],
            "name": meta["name"],
            "labels": {"kubernetes.io/service-name": meta["name"]},
        },
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": [{"name": port["name"], "port": ENGINE_PORT, "protocol": "TCP"}],
    }


def _is_ready(pod: Object) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


async def _apply_slice(kube: KubeClient, body: Object) -> None:
    meta = body["metadata"]
    path = f"/apis/discovery.k8s.io/v1/namespaces/{meta['namespace']}/endpointslices/{meta['name']}"
    query = {"fieldManager": "test", "force": "true"}
    apply = "application/apply-patch+yaml"
    await kube._exchange(Request("apply", "EndpointSlice", "PATCH", path, query, body, apply))


def wait_until_programmed(plane: ControlPlane, seconds: float = 30) -> None:
    """Wait until Contour has taken the Gateway."""
    deadline = time.monotonic() + seconds
    wait = ["wait", f"gateway/{NAME}", "-n", NAMESPACE, "--for=condition=Programmed"]
    while True:
        try:
            plane.kubectl(*wait, "--timeout=5s")
            return
        except StepError:
            if time.monotonic() > deadline:
                raise
