"""Runs a metrics server beside a native cluster, as a plain process: what an autoscaler asks.

It asks the kubelet what pods use, and the API server passes on to it what is asked below
``metrics.k8s.io``. Stopped with the thread that started it. Used by the tests of autoscaling.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from deploy.native.apiserver import free_ports, start_program, stop_program
from deploy.native.binaries import ensure_binaries

_GROUP, _VERSION = "metrics.k8s.io", "v1beta1"
_NAME = "metrics-server"
_WHERE = {"name": _NAME, "namespace": "kube-system"}
RESOURCES = f"/apis/{_GROUP}/{_VERSION}"


def manifests(address: str, port: int) -> str:
    """Give what leads the API server to a metrics server at ``address``, which is no loopback."""
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _WHERE,
        "spec": {"ports": [{"name": "https", "port": 443, "targetPort": port}]},
    }
    endpoints = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {**_WHERE, "labels": {"kubernetes.io/service-name": _NAME}},
        "addressType": "IPv4",
        "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
        "endpoints": [{"addresses": [address], "conditions": {"ready": True}}],
    }
    api = {
        "apiVersion": "apiregistration.k8s.io/v1",
        "kind": "APIService",
        "metadata": {"name": f"{_VERSION}.{_GROUP}"},
        "spec": {
            "group": _GROUP,
            "version": _VERSION,
            "service": _WHERE,
            "groupPriorityMinimum": 100,
            "versionPriority": 100,
            # Its certificate is its own; both run on this machine.
            "insecureSkipTLSVerify": True,
        },
    }
    return "\n---\n".join(json.dumps(one) for one in (service, endpoints, api))


@contextmanager
def metrics_server(
    folder: Path, kubeconfig: Path, address: str, kubectl: Callable[..., str]
) -> Iterator[None]:
    """Run one on ``address`` for as long as the block lasts; ``kubectl(*words, stdin=)`` runs it.

    Raises ``StepError`` when it cannot be built. Its log is ``folder/metrics-server.log``.
    """
    program = ensure_binaries([_NAME])[_NAME]
    (port,) = free_ports(1)
    flags = [
        f"--{kind}kubeconfig={kubeconfig}" for kind in ("", "authentication-", "authorization-")
    ]
    flags += [
        f"--secure-port={port}",
        f"--cert-dir={folder / 'metrics-server-certificates'}",
        "--kubelet-insecure-tls",
        "--kubelet-preferred-address-types=InternalIP",
        "--metric-resolution=15s",
    ]
    process = start_program([program, *flags], folder / f"{_NAME}.log")
    text = manifests(address, port)
    try:
        kubectl("apply", "--server-side", "-f", "-", stdin=text)
        yield
    finally:
        kubectl("delete", "--ignore-not-found", "-f", "-", stdin=text)
        stop_program(process)
