"""Whether the certificates that a process was told to trust are there.

boto3 says of a file that is missing no more than that it is missing, and only after it was asked
for something. Called wherever a client for S3 is made; opens no connection.
"""

from collections.abc import Mapping
from pathlib import Path

_VARIABLE = "AWS_CA_BUNDLE"


def missing_bundle(environment: Mapping[str, str]) -> str:
    """Give a sentence about a file of certificates that is not there; else nothing."""
    path = environment.get(_VARIABLE, "")
    if not path or Path(path).is_file():
        return ""
    return (
        f"{_VARIABLE} names the certificates {path}, which are not there. In a cluster they are"
        " the ConfigMap of the chart's value caBundle: it must be in this namespace and have the"
        " key that caBundle.key names"
    )
