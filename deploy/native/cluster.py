"""Runs a one-node Kubernetes from its parts, in the order in which they need each other.

``Native`` is the cluster that ``make demo`` uses on a machine without Docker. Each method is one
step of the demo and may be repeated: what already runs and answers is left alone, what does not
is cleaned away by ``leftovers`` and started afresh. Knows nothing about Tunesmith.
"""

from __future__ import annotations

import json
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from deploy.native import host as machine
from deploy.native import leftovers, node, processes
from deploy.native.apiserver import (
    AGGREGATOR,
    apiserver_flags,
    controller_manager_flags,
    etcd_flags,
    is_ready,
)
from deploy.native.binaries import ensure_binaries
from deploy.native.pki import Authority
from deploy.settings import Settings
from deploy.shell import Log, StepError

COMPONENTS = (
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "containerd",
    "kubelet",
    "kube-proxy",
)
WAIT_SECONDS = 180
PATIENCE_SECONDS = 45


@dataclass(frozen=True)
class Ports:
    """The ports of one cluster: the usual ones, or free ones where those are taken."""

    apiserver: int
    etcd: int
    etcd_peer: int
    registry: int


class Native:
    """The native cluster of one state folder."""

    def __init__(self, settings: Settings) -> None:
        """Describe the cluster; nothing is started."""
        self.settings = settings
        self.state = settings.state

    @property
    def ports(self) -> Ports:
        """The ports chosen when the cluster was first started."""
        file = self.state / "ports.json"
        if not file.exists():
            self.state.mkdir(parents=True, exist_ok=True)
            chosen = [_free_port(p) for p in (6443, 2379, 2380, 5000)]
            file.write_text(json.dumps(chosen))
        return Ports(*json.loads(file.read_text()))

    @property
    def registry(self) -> str:
        """Name of the local image registry; containerd speaks plain HTTP to ``localhost``."""
        return f"localhost:{self.ports.registry}"

    def is_healthy(self) -> bool:
        """Say whether all our programs run and the API server answers."""
        if not (self.state / "pki" / "admin.crt").exists():
            return False
        pki = Authority(self.state / "pki")
        deadline = time.monotonic() + PATIENCE_SECONDS
        while all(processes.is_running(self.state, name) for name in COMPONENTS):
            if is_ready(self._url, pki):
                return True
            # A busy machine is no reason to throw a cluster away.
            if time.monotonic() > deadline:
                return False
            time.sleep(0.5)
        return False

    def prepare(self, log: Log) -> None:
        """Clean away a cluster that does not answer. A healthy one is left alone."""
        if self.is_healthy():
            log.say("a healthy cluster of ours is running: using it")
            return
        if foreign := processes.find_foreign_cluster(self.state):
            raise StepError(
                f"another cluster runs on this machine: {foreign[0].program}, {foreign[0].pid}",
                "a machine has room for one: use CLUSTER=current for that cluster",
            )
        images = self.settings.images
        leftovers.clean(self.state, images, log)
        leftovers.set_aside(self.state, log)
        # Unpacking the trainer's image again would take longer than all else.
        leftovers.set_aside_of_other_boot(images, log)

    def remove_old(self, _: Log) -> None:
        """Delete the files of clusters that were cleaned away."""
        for folder in (self.state, self.settings.images):
            leftovers.remove_set_aside(folder)

    def start_registry(self, log: Log) -> None:
        """Start the image registry; its images stay in the cache when the cluster goes."""
        url = f"http://127.0.0.1:{self.ports.registry}/v2/"
        if processes.is_running(self.state, "docker-registry") and _answers(url):
            return
        storage = self.settings.cache / "registry"
        storage.mkdir(parents=True, exist_ok=True)
        config = node.write_registry(self.state, storage, self.ports.registry)
        processes.start(self.state, "docker-registry", ["docker-registry", "serve", config])
        self._wait("the image registry", lambda: _answers(url), log)

    def start_control_plane(self, log: Log) -> None:
        """Start etcd, the API server, the controller manager and the scheduler."""
        programs = ensure_binaries(COMPONENTS[:4], log)
        pki = Authority(self.state / "pki")
        self._issue(pki)
        self._bridge(log)
        etcd = f"http://127.0.0.1:{self.ports.etcd}"
        peer = f"http://127.0.0.1:{self.ports.etcd_peer}"
        self._start(programs["etcd"], etcd_flags(self.state / "etcd", etcd, peer))
        self._start(
            programs["kube-apiserver"],
            [
                *apiserver_flags(pki, etcd, self.ports.apiserver),
                f"--advertise-address={node.NODE_IP}",
                "--kubelet-preferred-address-types=InternalIP",
                "--enable-admission-plugins=NodeRestriction",
                f"--kubelet-client-certificate={pki.cert('admin')}",
                f"--kubelet-client-key={pki.key('admin')}",
            ],
        )
        self._wait("kube-apiserver", lambda: is_ready(self._url, pki), log)
        admin = self.settings.kubeconfig
        signing = [
            f"--cluster-signing-cert-file={pki.certificate}",
            f"--cluster-signing-key-file={pki.key('ca')}",
            "--allocate-node-cidrs=true",
            f"--cluster-cidr={node.POD_CIDR}",
        ]
        manager = controller_manager_flags(pki, admin)
        self._start(programs["kube-controller-manager"], [*manager, *signing])
        scheduler = [f"--kubeconfig={admin}", "--leader-elect=false"]
        self._start(programs["kube-scheduler"], scheduler)

    def start_node(self, log: Log) -> None:
        """Start containerd, the kubelet and kube-proxy, and wait for the node to be ready."""
        programs = ensure_binaries(COMPONENTS[5:], log)
        host = machine.inspect_host()
        log.say(f"cgroup v{host.cgroup_version}, may raise limits: {host.can_raise_limits}")
        config = node.write_containerd(
            self.state, self.settings.images, host, f"{self.registry}/pause:v1"
        )
        node.write_cni(self.state)
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1\n")
        self._start(Path("containerd"), ["-c", str(config)])
        sock = self.state / "ctr" / "containerd.sock"
        ctr = ["ctr", "--address", sock, "version"]
        self._wait("containerd", lambda: sock.exists() and log.succeeds(ctr), log)
        kubelet = [
            f"--config={node.write_kubelet(self.state)}",
            f"--kubeconfig={self.state}/kubelet.kubeconfig",
            f"--root-dir={self.state}/kubelet",
            f"--hostname-override={node.NODE_NAME}",
            f"--node-ip={node.NODE_IP}",
        ]
        self._start(programs["kube-proxy"], node.proxy_flags(self.settings.kubeconfig, host))
        ready = [
            "get",
            "node",
            node.NODE_NAME,
            "-o=jsonpath={.status.conditions[?(@.type=='Ready')].status}",
        ]

        def node_is_ready() -> bool:
            # containerd answers a moment before its part for the kubelet does, and that ends a
            # kubelet which asks too early.
            self._start(programs["kubelet"], kubelet)
            return self.kubectl(log, ready, check=False) == "True"

        self._wait("the node", node_is_ready, log)

    def kubectl(self, log: Log, arguments: list[str], stdin: str = "", check: bool = True) -> str:
        """Run kubectl as administrator; with ``check`` off a failure gives an empty answer."""
        program = ensure_binaries(["kubectl"], log)["kubectl"]
        command = [program, f"--kubeconfig={self.settings.kubeconfig}", *arguments]
        try:
            return log.run(command, stdin=stdin)
        except StepError:
            if check:
                raise
            return ""

    def remove(self, log: Log) -> None:
        """Stop everything and delete the state. Caches stay."""
        leftovers.clean(self.state, self.settings.images, log)
        leftovers.set_aside(self.state, log)
        leftovers.remove_set_aside(self.state)

    @property
    def _url(self) -> str:
        return f"https://127.0.0.1:{self.ports.apiserver}"

    def _start(self, program: Path, flags: list[str]) -> None:
        if not processes.is_running(self.state, program.name):
            processes.start(self.state, program.name, [program, *flags])

    def _issue(self, pki: Authority) -> None:
        hosts = ["DNS:localhost", "IP:127.0.0.1", f"IP:{node.NODE_IP}"]
        service = ["kubernetes", "kubernetes.default", "kubernetes.default.svc"]
        inside = [*(f"DNS:{name}" for name in service), "IP:10.96.0.1"]
        pki.issue("apiserver", "kube-apiserver", "tunesmith", [*hosts, *inside])
        pki.issue("admin", "admin", "system:masters", hosts)
        pki.issue(AGGREGATOR, AGGREGATOR, "tunesmith", ["DNS:localhost"])
        own = [f"DNS:{node.NODE_NAME}", *hosts]
        pki.issue("kubelet", f"system:node:{node.NODE_NAME}", "system:nodes", own)
        pki.write_kubeconfig(self.settings.kubeconfig, "admin", self._url)
        pki.write_kubeconfig(self.state / "kubelet.kubeconfig", "kubelet", self._url)

    def _bridge(self, log: Log) -> None:
        if not Path(f"/sys/class/net/{node.NODE_BRIDGE}").exists():
            log.run(["ip", "link", "add", node.NODE_BRIDGE, "type", "bridge"])
            log.run(["ip", "addr", "add", f"{node.NODE_IP}/32", "dev", node.NODE_BRIDGE])
            log.run(["ip", "link", "set", node.NODE_BRIDGE, "up"])

    def _wait(self, what: str, is_up: Callable[[], bool], log: Log) -> None:
        deadline = time.monotonic() + WAIT_SECONDS
        log.say(f"waiting for {what}")
        while not is_up():
            if time.monotonic() > deadline:
                raise StepError(f"{what} is not ready", f"see the logs in {self.state}/log")
            time.sleep(0.25)


def _free_port(preferred: int) -> int:
    for port in (preferred, 0):
        with socket.socket() as listener:
            # A port of the cluster before this one is free, although its connections linger.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(listener.getsockname()[1])
    raise StepError("no free port")


def _answers(url: str) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=2):
            return True
    except (OSError, urllib.error.URLError):
        return False
