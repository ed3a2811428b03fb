"""Issues the certificates and kubeconfigs of one throw-away cluster with ``openssl``.

Elliptic-curve keys, because they are made in milliseconds and tests start a control plane often.
Nothing is ever renewed: the cluster is thrown away long before. Called by ``apiserver``.
"""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

from deploy.shell import StepError

DAYS = "3650"
_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


class Authority:
    """A certificate authority in a folder; the files are named after what they are for."""

    def __init__(self, folder: Path) -> None:
        """Use the authority in ``folder``, and make one if there is none."""
        self.folder = folder
        self.certificate = folder / "ca.crt"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not self.certificate.exists():
            out = ("-keyout", self.key("ca"), "-out", self.certificate)
            _openssl("req", "-x509", *_NEW_KEY, "-subj", "/CN=tunesmith-ca", "-days", DAYS, *out)
            curve = ("-pkeyopt", "ec_paramgen_curve:P-256")
            _openssl("genpkey", "-algorithm", "EC", *curve, "-out", self.key("sa"))
            # The API server reads no public key out of a PKCS #8 private one.
            _openssl("pkey", "-in", self.key("sa"), "-pubout", "-out", self.token_key)

    @property
    def token_key(self) -> Path:
        """Path of the public key that service account tokens are checked with."""
        return self.folder / "sa.pub"

    def key(self, name: str) -> Path:
        """Path of a private key."""
        return self.folder / f"{name}.key"

    def cert(self, name: str) -> Path:
        """Path of a certificate."""
        return self.folder / f"{name}.crt"

    def issue(self, name: str, user: str, group: str, names: Sequence[str]) -> None:
        """Make ``name.key`` and ``name.crt`` for ``user``; ``names`` as in ``subjectAltName``."""
        if self.cert(name).exists():
            return
        request, extensions = self.folder / f"{name}.csr", self.folder / f"{name}.ext"
        usage = "extendedKeyUsage=clientAuth,serverAuth"
        extensions.write_text(f"subjectAltName={','.join(names)}\n{usage}\n")
        subject = f"/O={group}/CN={user}"
        out = ("-keyout", self.key(name), "-out", request)
        _openssl("req", "-new", *_NEW_KEY, "-subj", subject, *out)
        signer = ("-CA", self.certificate, "-CAkey", self.key("ca"), "-CAcreateserial")
        result = ("-days", DAYS, "-extfile", extensions, "-out", self.cert(name))
        _openssl("x509", "-req", "-in", request, *signer, *result)

    def write_kubeconfig(self, path: Path, name: str, server: str) -> Path:
        """Write a kubeconfig that carries the certificate ``name`` inside it."""

        def embedded(file: Path) -> str:
            return base64.b64encode(file.read_bytes()).decode()

        context = {"cluster": "tunesmith", "user": name}
        cluster = {"server": server, "certificate-authority-data": embedded(self.certificate)}
        user = {
            "client-certificate-data": embedded(self.cert(name)),
            "client-key-data": embedded(self.key(name)),
        }
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "tunesmith", "cluster": cluster}],
            "users": [{"name": name, "user": user}],
            "contexts": [{"name": "tunesmith", "context": context}],
            "current-context": "tunesmith",
        }
        path.touch(mode=0o600)
        # JSON is YAML, and needs no library.
        path.write_text(json.dumps(config, indent=1))
        return path


def _openssl(*arguments: str | Path) -> None:
    command = ["openssl", *(str(a) for a in arguments)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise StepError("openssl is not installed", "apt-get install openssl") from error
    if done.returncode != 0:
        raise StepError(f"openssl {arguments[0]}: {done.stderr.strip()}")
