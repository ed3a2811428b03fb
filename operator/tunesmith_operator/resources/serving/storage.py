"""How serving pods reach S3: the revision's options over the chart's, and the keys.

Used by the fetcher for the model and by the sidecar for the conversation log; an engine that loads
a base model from S3 itself is told in the variables that it knows.
"""

from dataclasses import dataclass

from tunesmith_api.revision import RevisionTemplate
from tunesmith_api.run import CREDENTIALS_PATH
from tunesmith_api.training import S3Options
from tunesmith_operator.config import Config
from tunesmith_operator.resources.metadata import Manifest
from tunesmith_operator.resources.security import variables

CREDENTIALS_FOLDER = f"{CREDENTIALS_PATH}/model"
_VOLUME = "credentials"
# Keys of the Secret, and AWS's variables, too.
_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")


@dataclass(frozen=True, slots=True)
class Storage:
    """Where S3 is and whose keys are used."""

    endpoint: str
    region: str
    path_style: bool
    secret: str
    """Secret with the keys; empty for the pod's own identity."""

    @property
    def settings(self) -> dict[str, str]:
        """What fetcher and sidecar are told, each with a prefix of its own."""
        where = {
            "ENDPOINT": self.endpoint,
            "REGION": self.region,
            "PATH_STYLE": str(self.path_style).lower(),
        }
        return where | ({"CREDENTIALS_DIR": CREDENTIALS_FOLDER} if self.secret else {})

    @property
    def volumes(self) -> list[Manifest]:
        """The pod's volume with the keys, if there is one."""
        if not self.secret:
            return []
        # Optional, because a pod that waits for a Secret waits in silence for ever; the fetcher
        # says what is missing, and the operator needs no right to read Secrets.
        source = {"secretName": self.secret, "optional": True}
        return [{"name": _VOLUME, "secret": source}]

    @property
    def mounts(self) -> list[Manifest]:
        """Where a container sees the keys."""
        mount = {"name": _VOLUME, "mountPath": CREDENTIALS_FOLDER, "readOnly": True}
        return [mount] if self.secret else []

    @property
    def environment(self) -> list[Manifest]:
        """What a program of somebody else's is told: AWS's variables, and of vLLM's streamer.

        Keys as variables, as no such program reads our files. Optional, as for the volume: it is
        the sidecar that says which are missing.
        """
        told = {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
            "RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING": "0" if self.path_style else "1",
        }
        return [
            *variables({name: text for name, text in told.items() if text}),
            *(self._secret_variable(key) for key in _KEYS if self.secret),
        ]

    def _secret_variable(self, key: str) -> Manifest:
        reference = {"name": self.secret, "key": key, "optional": True}
        return {"name": key, "valueFrom": {"secretKeyRef": reference}}


def resolve_storage(template: RevisionTemplate, config: Config) -> Storage:
    """Give the S3 of a revision."""
    s3, chart = template.s3 or S3Options(), config.s3
    return Storage(
        endpoint=s3.endpoint or chart.endpoint,
        region=s3.region or chart.region,
        path_style=chart.path_style if s3.path_style is None else s3.path_style,
        secret=s3.secret_ref.name if s3.secret_ref else chart.secret_name,
    )
