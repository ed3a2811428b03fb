"""A real control plane without a node: etcd and kube-apiserver, ready in about three seconds.

For integration tests and benchmarks:

    with ControlPlane(tmp_path) as cp:
        load_kubeconfig(cp.kubeconfig)

It has its own folder and ports, so that several can run at once, and its programs die with the
process that started it, even when that is killed. With ``controllers=True`` the Job and garbage
collection controllers of kube-controller-manager run too; pods are created but never run.
"""

from __future__ import annotations

import ctypes
import os
import random
import signal
import socket
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from http.client import HTTPSConnection
from pathlib import Path
from types import TracebackType

from deploy.native.binaries import ensure_binaries
from deploy.native.pki import Authority
from deploy.shell import StepError

READY_TIMEOUT_SECONDS = 180
CRDS_TIMEOUT_SECONDS = 120
PORTS = range(14_000, 20_000)
"""Below what the kernel gives to connections, and below Kubernetes' node ports."""
PROGRAMS = ("etcd", "kube-apiserver", "kube-controller-manager", "kubectl")
AGGREGATOR = "front-proxy"
"""Name of the certificate with which the API server calls others, which have its authority."""
# Enough to run Jobs, delete by owner reference, and give pods their service account.
CONTROLLERS = (
    "job-controller,garbage-collector-controller,namespace-controller,"
    "serviceaccount-controller,root-ca-certificate-publisher-controller"
)
_PR_SET_PDEATHSIG = 1
# Not that of a process: those who have set the same seed would draw the same.
_CHANCE = random.SystemRandom()
# Loaded here, because a child must not import anything between fork and exec.
_LIBC = ctypes.CDLL(None)


class ControlPlane:
    """etcd and kube-apiserver in one folder, stopped on leaving the ``with`` block.

    The block must be entered in a thread that lives as long as it (the kernel ends the programs
    when the thread that started them ends). Raises ``StepError`` when they do not become ready;
    the logs are ``directory/*.log``.
    """

    def __init__(self, directory: Path, *, controllers: bool = False, port: int = 0) -> None:
        """Prepare a control plane in ``directory``; ``port`` 0 takes any free one."""
        self.directory = Path(directory).absolute()
        self.kubeconfig = self.directory / "kubeconfig"
        self.port = port
        self._controllers = controllers
        self._running = ExitStack()
        self._pki = Authority(self.directory / "pki")
        self._processes: list[subprocess.Popen[bytes]] = []
        self._bin: dict[str, Path] = {}

    @property
    def url(self) -> str:
        """Address of the API server."""
        return f"https://127.0.0.1:{self.port}"

    def __enter__(self) -> ControlPlane:
        """Start everything and wait until the API server says that it is ready."""
        self._bin = ensure_binaries(PROGRAMS)
        try:
            self._start_all()
        except BaseException:
            self._running.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop everything, the API server before its etcd."""
        self._running.close()

    def kubectl(self, *arguments: str, stdin: str = "") -> str:
        """Run kubectl against this control plane and return what it printed."""
        command = [str(self._bin["kubectl"]), "--kubeconfig", str(self.kubeconfig), *arguments]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise StepError(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def connect(self) -> HTTPSConnection:
        """Give a connection to the API server, as the administrator."""
        return HTTPSConnection("127.0.0.1", self.port, context=admin_context(self._pki))

    def install_crds(self, *paths: Path) -> None:
        """Apply the CRDs in ``paths`` and wait until the API server serves their kinds.

        Raises ``StepError`` when that takes longer than two minutes.
        """
        files = [argument for path in paths for argument in ("-f", str(path))]
        self.kubectl("apply", "--server-side", *files)
        deadline = time.monotonic() + CRDS_TIMEOUT_SECONDS
        while True:
            try:
                self.kubectl("wait", "--for=condition=Established", "--timeout=30s", *files)
                return
            except StepError:
                # kubectl gives up on a CRD that has no conditions yet.
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def _start_all(self) -> None:
        etcd_port, peer_port, free = free_ports(3)
        self.port = self.port or free
        hosts = ["DNS:localhost", "DNS:kubernetes.default.svc", "IP:127.0.0.1", "IP:10.96.0.1"]
        self._pki.issue("apiserver", "kube-apiserver", "tunesmith", hosts)
        self._pki.issue("admin", "admin", "system:masters", ["DNS:localhost"])
        self._pki.issue(AGGREGATOR, AGGREGATOR, "tunesmith", ["DNS:localhost"])
        self._pki.write_kubeconfig(self.kubeconfig, "admin", self.url)
        client = f"http://127.0.0.1:{etcd_port}"
        peer = f"http://127.0.0.1:{peer_port}"
        self._start("etcd", etcd_flags(self.directory / "etcd", client, peer))
        apiserver = [*apiserver_flags(self._pki, client, self.port), "--bind-address=127.0.0.1"]
        # Without a kubelet a pod is only stored, so quick starts cost nothing in safety.
        self._start("kube-apiserver", [*apiserver, "--disable-admission-plugins=ServiceAccount"])
        self._wait_until_ready()
        if self._controllers:
            flags = [f"--controllers={CONTROLLERS}", "--secure-port=0"]
            manager = controller_manager_flags(self._pki, self.kubeconfig)
            self._start("kube-controller-manager", [*manager, *flags])

    def _start(self, name: str, flags: list[str]) -> None:
        process = start_program([self._bin[name], *flags], self.directory / f"{name}.log")
        self._processes.append(process)
        self._running.callback(stop_program, process)

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + READY_TIMEOUT_SECONDS
        while not is_ready(self.url, self._pki):
            dead = any(process.poll() is not None for process in self._processes)
            if dead or time.monotonic() > deadline:
                raise StepError(f"the API server is not ready, see {self.directory}/*.log")
            time.sleep(0.05)


def etcd_flags(data: Path, client: str, peer: str) -> list[str]:
    """Flags of a single-member etcd. It may lose data on power loss: the cluster is throw-away."""
    return [
        f"--data-dir={data}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
        "--unsafe-no-fsync",
        "--log-level=warn",
    ]


def apiserver_flags(pki: Authority, etcd: str, port: int) -> list[str]:
    """Flags of a kube-apiserver that both the tests and the native cluster use."""
    return [
        f"--etcd-servers={etcd}",
        f"--secure-port={port}",
        f"--cert-dir={pki.folder}",
        f"--client-ca-file={pki.certificate}",
        f"--tls-cert-file={pki.cert('apiserver')}",
        f"--tls-private-key-file={pki.key('apiserver')}",
        f"--service-account-key-file={pki.token_key}",
        f"--service-account-signing-key-file={pki.key('sa')}",
        "--service-account-issuer=https://kubernetes.default.svc",
        "--authorization-mode=Node,RBAC",
        "--service-cluster-ip-range=10.96.0.0/16",
        "--allow-privileged=true",
        # How other API servers, such as a metrics server, know that a request comes from this one.
        f"--proxy-client-cert-file={pki.cert(AGGREGATOR)}",
        f"--proxy-client-key-file={pki.key(AGGREGATOR)}",
        f"--requestheader-client-ca-file={pki.certificate}",
        f"--requestheader-allowed-names={AGGREGATOR}",
        "--requestheader-username-headers=X-Remote-User",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
    ]


def controller_manager_flags(pki: Authority, kubeconfig: Path) -> list[str]:
    """Flags of a kube-controller-manager that both the tests and the native cluster use."""
    return [
        f"--kubeconfig={kubeconfig}",
        f"--service-account-private-key-file={pki.key('sa')}",
        f"--root-ca-file={pki.certificate}",
        "--use-service-account-credentials=true",
        "--leader-elect=false",
    ]


def admin_context(pki: Authority) -> ssl.SSLContext:
    """Give what a connection needs to be the administrator's."""
    context = ssl.create_default_context(cafile=str(pki.certificate))
    context.load_cert_chain(pki.cert("admin"), pki.key("admin"))
    return context


def is_ready(url: str, pki: Authority) -> bool:
    """Say whether the API server at ``url`` answers ``/readyz`` to the administrator."""
    # The host's proxy settings are not for an address on this machine.
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=admin_context(pki))
    )
    try:
        with opener.open(f"{url}/readyz", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def free_ports(count: int) -> list[int]:
    """Return ports that were free a moment ago, all different.

    A program that is started takes its port seconds later. So it is none of those that the kernel
    gives to every outgoing connection, and is drawn: another process would have to draw the same.
    """
    with ExitStack() as held:
        ports: list[int] = []
        for port in _CHANCE.sample(PORTS, len(PORTS)):
            if len(ports) == count:
                return ports
            with suppress(OSError):
                held.enter_context(socket.socket()).bind(("", port))
                ports.append(port)
    raise StepError(f"no {count} ports of {PORTS.start} to {PORTS.stop - 1} are free")


def start_program(command: Sequence[object], log: Path) -> subprocess.Popen[bytes]:
    """Start a program that dies with this thread; it runs in the folder of its log."""
    with log.open("wb") as output:
        return subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=log.parent,
            # Not the terminal's group: Ctrl-C must reach the test first.
            start_new_session=True,
            preexec_fn=_die_with_parent,  # noqa: PLW1509 (one prepared system call)
        )


def stop_program(process: subprocess.Popen[bytes]) -> None:
    """Ask nicely, then not: nothing of a throw-away control plane is worth waiting for."""
    process.terminate()
    try:
        process.wait(timeout=3)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _die_with_parent() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
