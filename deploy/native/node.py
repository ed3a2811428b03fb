"""Writes the configuration of the node's programs: containerd, CNI, kubelet, the registry.

Only text comes out of here; ``cluster`` starts what it describes. Every path lies below the state
folder (and the image cache), so that removing those removes the node.
"""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

from deploy.native.host import Host

NODE_NAME = "node1"
# A node's address must not be loopback, and must not be one the machine has on a real network.
NODE_IP = "10.99.0.1"
NODE_BRIDGE = "tunesmith0"
NETWORK = "tunesmith"
POD_CIDR = "10.88.0.0/16"
NODE_POD_CIDR = "10.88.0.0/24"
DNS_IP = "10.96.0.10"


def write_containerd(state: Path, images: Path, host: Host, pause_image: str) -> Path:
    """Write containerd's configuration and return its path; ``images`` outlives the cluster."""
    config = state / "ctr" / "config.toml"
    config.parent.mkdir(parents=True, exist_ok=True)
    # Without CAP_SYS_RESOURCE runc may not lower an OOM score below its own.
    restrict = str(not host.can_raise_limits).lower()
    cri = 'plugins."io.containerd.grpc.v1.cri"'
    config.write_text(
        textwrap.dedent(f"""\
        version = 2
        root = "{images}"
        state = "{state}/ctr/state"
        [grpc]
          address = "{state}/ctr/containerd.sock"
        [ttrpc]
          address = "{state}/ctr/containerd.sock.ttrpc"
        [plugins."io.containerd.internal.v1.opt"]
          path = "{state}/ctr/opt"
        [{cri}]
          restrict_oom_score_adj = {restrict}
          netns_mounts_under_state_dir = true
          sandbox_image = "{pause_image}"
          max_concurrent_downloads = 6
          [{cri}.containerd]
            snapshotter = "overlayfs"
            default_runtime_name = "runc"
            [{cri}.containerd.runtimes.runc]
              runtime_type = "io.containerd.runc.v2"
          [{cri}.cni]
            bin_dir = "{host.cni_folder}"
            conf_dir = "{state}/cni"
        """)
    )
    return config


def write_cni(state: Path) -> None:
    """Write the pod network; its addresses are remembered below the state folder.

    Every pod gets a cable of its own to the host instead of a port on a bridge: all traffic is
    then routed, so that services work without the ``br_netfilter`` kernel module.
    """
    folder = state / "cni"
    folder.mkdir(parents=True, exist_ok=True)
    cable = {
        "type": "ptp",
        "ipMasq": True,
        "ipam": {
            "type": "host-local",
            "dataDir": f"{state}/cni-addresses",
            "ranges": [[{"subnet": NODE_POD_CIDR}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    }
    portmap = {"type": "portmap", "capabilities": {"portMappings": True}}
    plugins = {"cniVersion": "0.4.0", "name": NETWORK, "plugins": [cable, portmap]}
    (folder / "10-tunesmith.conflist").write_text(json.dumps(plugins, indent=1))


def write_kubelet(state: Path) -> Path:
    """Write the kubelet's configuration and return its path."""
    config = state / "kubelet.json"
    pki = state / "pki"
    values = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": f"{pki}/ca.crt"},
        },
        "authorization": {"mode": "Webhook"},
        "cgroupDriver": "cgroupfs",
        "failCgroupV1": False,
        "failSwapOn": False,
        # Its default of -999 needs a capability that not every machine gives to root.
        "oomScoreAdj": 0,
        "enforceNodeAllocatable": [],
        # The demo fills disks with images on purpose; only real emergencies should evict.
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "2%"},
        "imageGCHighThresholdPercent": 100,
        # They are kept from cluster to cluster, and every change of the code makes new ones.
        "imageMaximumGCAge": "24h",
        "containerRuntimeEndpoint": f"unix://{state}/ctr/containerd.sock",
        "volumePluginDir": f"{state}/kubelet/plugins-exec",
        "tlsCertFile": f"{pki}/kubelet.crt",
        "tlsPrivateKeyFile": f"{pki}/kubelet.key",
        "clusterDNS": [DNS_IP],
        "clusterDomain": "cluster.local",
        "serializeImagePulls": False,
        "nodeStatusUpdateFrequency": "5s",
    }
    config.write_text(json.dumps(values, indent=1))
    return config


def write_registry(state: Path, storage: Path, port: int) -> Path:
    """Write the image registry's configuration and return its path."""
    config = state / "registry.json"
    values = {
        "version": "0.1",
        "log": {"level": "warn"},
        "storage": {
            "filesystem": {"rootdirectory": str(storage)},
            "delete": {"enabled": True},
        },
        "http": {"addr": f"127.0.0.1:{port}"},
    }
    config.write_text(json.dumps(values, indent=1))
    return config


def proxy_flags(kubeconfig: Path, host: Host) -> list[str]:
    """Flags of kube-proxy; conntrack's limits are left alone where root may not set them."""
    flags = [
        f"--kubeconfig={kubeconfig}",
        f"--cluster-cidr={POD_CIDR}",
        f"--hostname-override={NODE_NAME}",
        "--proxy-mode=iptables",
    ]
    if not host.can_raise_limits:
        flags += [
            "--conntrack-max-per-core=0",
            "--conntrack-tcp-timeout-established=0s",
            "--conntrack-tcp-timeout-close-wait=0s",
        ]
    return flags


def resolver_forwards() -> bool:
    """Say whether the machine names a DNS server that a pod could reach too."""
    try:
        lines = Path("/etc/resolv.conf").read_text().splitlines()
    except OSError:
        return False
    servers = [line.split()[1] for line in lines if line.startswith("nameserver ")]
    return bool(servers) and not any(s.startswith(("127.", "::1")) for s in servers)
