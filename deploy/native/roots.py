"""Trees of nothing but Debian packages: what the native cluster's own base images hold.

No container registry on the internet is needed for them. ``llama_server`` is one such tree as a
program of this machine, for the tests that talk to a GGUF file by llama.cpp.
"""

from __future__ import annotations

import hashlib
import shlex
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from deploy.locks import locked
from deploy.native.host import install_packages
from deploy.shell import Log


@dataclass(frozen=True)
class Root:
    """A tree, and the image that is made of it."""

    image: str
    """Name and beginning of the tag, which goes on with a digest of how it is made."""
    suite: str
    packages: str
    entrypoint: str = ""
    edition: int = 1
    """Raised when something else about its making changes."""

    @property
    def name(self) -> str:
        """Name without a tag."""
        return self.image.partition(":")[0]

    @property
    def reference(self) -> str:
        """Name and tag, without a registry."""
        facts = f"{self.suite} {self.packages} {self.edition}"
        return f"{self.image}-{hashlib.sha256(facts.encode()).hexdigest()[:8]}"


PYTHON = Root(
    "python:3.11-slim-bookworm", "bookworm", "python3,python3-venv,ca-certificates", edition=2
)
HAPROXY = Root("haproxy:2.6-bookworm", "bookworm", "haproxy")
PROMETHEUS = Root("prometheus:2.42-bookworm", "bookworm", "prometheus")
# bookworm has no llama.cpp.
LLAMA_CPP = Root(
    "llama.cpp:sid", "sid", "llama.cpp,ca-certificates", entrypoint="llama-server", edition=2
)

# Its libraries are newer than this machine's, so it runs in its own tree, with this machine's
# /tmp, where tests have their files. Each exec keeps the process, so signals reach the server.
_IN_ITS_TREE = """\
#!/bin/sh
exec unshare --mount sh -c '
for shared in dev proc tmp; do mount --rbind "/$shared" "$0/$shared"; done
exec chroot "$0" {program} "$@"
' {root} "$@"
"""
_PROGRAMS = ("llama-quantize", "llama-server")


def unpack(root: Root, folder: Path, log: Log) -> None:
    """Make the tree in ``folder``, anew. Raises ``StepError`` where a package cannot be had."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    include = f"--include={root.packages}"
    # Half of debootstrap's time. A mirror that lags behind is good enough, as it is there.
    lagging = '--aptopt=Acquire::Check-Valid-Until "false"'
    log.run(["mmdebstrap", "--variant=minbase", lagging, include, root.suite, folder])
    if root is PYTHON:
        _be_like_the_official_image(folder)
    for waste in ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/man"):
        shutil.rmtree(folder / waste, ignore_errors=True)


def llama_server(cache: Path, log: Log) -> Path:
    """Return llama.cpp's server as a program, out of ``cache`` or made now. Needs root.

    ``llama-quantize`` is beside it.
    """
    made = cache / "roots"
    folder = made / LLAMA_CPP.reference.replace(":", "-")
    programs = made / f"{folder.name}.bin"
    with locked(made / "lock", "waiting for another command that makes llama.cpp"):
        if not programs.exists():
            print(f"making llama.cpp out of Debian's packages, log: {log.path}", file=sys.stderr)
            install_packages(log)
            unpack(LLAMA_CPP, folder, log)
            _write_programs(folder, made / "programs.part").rename(programs)
    return programs / "llama-server"


def _write_programs(root: Path, folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name in _PROGRAMS:
        (folder / name).write_text(_IN_ITS_TREE.format(root=shlex.quote(str(root)), program=name))
        (folder / name).chmod(0o755)
    return folder


def _be_like_the_official_image(root: Path) -> None:
    """The official one has "python" first on the path, and lets pip install."""
    for name in ("python", "python3"):
        (root / "usr/local/bin" / name).symlink_to("/usr/bin/python3")
    (root / "usr/lib/python3.11/EXTERNALLY-MANAGED").unlink(missing_ok=True)
