"""A revision's record: the immutable ConfigMap that a stable revision can be made again from.

It owns the revision's Deployment and Service, so that deleting it takes everything. Built for
EnsureRevision; read back by the edge.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from tunesmith_api.modeldeployment import ModelDeployment
from tunesmith_api.revision import RevisionTemplate
from tunesmith_operator.resources.metadata import Manifest, controlled_by, owned_metadata
from tunesmith_operator.resources.serving.names import revision_labels

TEMPLATE_KEY = "template.json"
NUMBER_KEY = "number"
DIGEST_KEY = "digest"


class RecordError(ValueError):
    """A ConfigMap is not a record; the message says why."""


@dataclass(frozen=True, slots=True)
class Revision:
    """What a record says."""

    name: str
    number: int
    digest: str
    template: RevisionTemplate


def build_record(deployment: ModelDeployment, revision: Revision) -> Manifest:
    """Give the record of a revision."""
    labels = revision_labels(deployment, revision.number)
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": owned_metadata(deployment, revision.name, labels),
        "immutable": True,
        "data": {
            # With its defaults: a later operator may have others.
            TEMPLATE_KEY: revision.template.model_dump_json(by_alias=True, exclude_none=True),
            NUMBER_KEY: str(revision.number),
            DIGEST_KEY: revision.digest,
        },
    }


def read_record(name: str, data: Mapping[str, str]) -> Revision:
    """Give the revision that a ConfigMap's data hold. Raises RecordError."""
    try:
        return Revision(
            name=name,
            number=int(data[NUMBER_KEY]),
            digest=data[DIGEST_KEY],
            template=RevisionTemplate.model_validate_json(data[TEMPLATE_KEY]),
        )
    except (KeyError, ValueError) as error:
        raise RecordError(f"ConfigMap {name} is not a revision's record: {error}") from error


def owned_by_record(deployment: ModelDeployment, revision: Revision, record_uid: str) -> Manifest:
    """Metadata of an object that goes when the record goes."""
    return {
        "name": revision.name,
        "namespace": deployment.metadata.namespace,
        "labels": revision_labels(deployment, revision.number),
        "ownerReferences": [controlled_by("v1", "ConfigMap", revision.name, record_uid)],
    }
