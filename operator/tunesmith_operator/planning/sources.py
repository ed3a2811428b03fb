"""Which files a ModelDeployment asks for: its source against the ModelVersions there are.

Pure; called by decide_rollout. An objection leaves what serves as it is.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from tunesmith_api.conditions import DeploymentReason
from tunesmith_api.engine import EngineType
from tunesmith_api.modeldeployment import Delivery, ModelDeploymentSpec
from tunesmith_api.modelversion import Artifact, ModelVersion
from tunesmith_api.revision import ModelFiles, RevisionTemplate

_FORMATS = {
    EngineType.LLAMA_CPP: ("GGUF",),
    EngineType.OLLAMA: ("Ollama", "GGUF"),
    EngineType.VLLM: ("Merged",),
    EngineType.CUSTOM: ("Merged", "GGUF"),
}
_EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class SourceObjection:
    """What is wrong with the source and what to change."""

    reason: DeploymentReason
    message: str


def resolve(
    spec: ModelDeploymentSpec, versions: Sequence[ModelVersion], unreadable: Sequence[str] = ()
) -> RevisionTemplate | SourceObjection:
    """Give the revision that the spec asks for, or what stands against it.

    ``unreadable`` says which versions there are besides, and why they cannot be read.
    """
    source = spec.source
    if source.uri is not None and source.digest is not None:
        return _template(spec, ModelFiles(uri=source.uri, digest=source.digest))
    version = _find(spec, versions)
    if version is None:
        what = source.model_version or f"of model {source.model} with the tag {source.channel}"
        return SourceObjection(
            DeploymentReason.VERSION_NOT_FOUND,
            f"There is no ModelVersion {what} in the namespace. Create it or change spec.source"
            + "".join(f". {why}" for why in unreadable[:3]),
        )
    return _files_of(version, spec)


def _files_of(
    version: ModelVersion, spec: ModelDeploymentSpec
) -> RevisionTemplate | SourceObjection:
    """Give the revision that serves the version's artifact, where the engine can serve one."""
    name = version.metadata.name
    formats = servable_formats(spec.delivery, spec.engine.type)
    files = next((a for f in formats for a in version.spec.artifacts if a.format == f), None)
    if files is None:
        return SourceObjection(
            DeploymentReason.ARTIFACT_NOT_FOUND,
            f"ModelVersion {name} has no artifact {' or '.join(formats)}, which"
            f" engine {spec.engine.type} with delivery {spec.delivery} needs. Export one, or"
            " set another spec.engine.type",
        )
    update: dict[str, object] = {"version": name}
    if spec.delivery is Delivery.ADAPTER:
        base = version.spec.base_model
        if base is None:
            return SourceObjection(
                DeploymentReason.BASE_MODEL_UNKNOWN,
                f"ModelVersion {name} has no baseModel, so its adapter fits none."
                " Use delivery Merged or a version that names it",
            )
        if files.added_tokens:
            why = _adds_tokens(version, files)
            return SourceObjection(DeploymentReason.ADAPTER_ADDS_TOKENS, why)
        update |= {"base_model_uri": base.uri, "base_model_revision": base.revision}
    template = _template(spec, ModelFiles(uri=files.uri, digest=files.digest))
    return template.model_copy(update=update)


def _adds_tokens(version: ModelVersion, adapter: Artifact) -> str:
    """Say why an adapter with tokens of its own is not served, and what to serve instead."""
    made = {artifact.format for artifact in version.spec.artifacts}
    if "Merged" in made:
        instead = "Set spec.delivery Merged: the version's Merged artifact has them"
    elif "GGUF" in made:
        instead = (
            "Set spec.delivery Merged and spec.engine.type LlamaCpp: the version's GGUF artifact"
            " has them"
        )
    else:
        instead = (
            "Train again with Merged or GGUF in output.artifacts and set spec.delivery Merged, or"
            " train without them"
        )
    return (
        f"The adapter of ModelVersion {version.metadata.name} brings {adapter.added_tokens} tokens"
        " (dataset.addTokens, addSpecialTokens) that its base model lacks, and pods that share a"
        f" base model have no embeddings for them. {instead}"
    )


def servable_formats(delivery: Delivery, engine: EngineType) -> tuple[str, ...]:
    """Give the formats of which a version must have one, the best first."""
    return ("Adapter",) if delivery is Delivery.ADAPTER else _FORMATS[engine]


def _template(spec: ModelDeploymentSpec, files: ModelFiles) -> RevisionTemplate:
    return RevisionTemplate(
        model=files,
        delivery=spec.delivery,
        engine=spec.engine,
        access=spec.access,
        conversation_log=spec.conversation_log,
        s3=spec.s3,
    )


def _find(spec: ModelDeploymentSpec, versions: Sequence[ModelVersion]) -> ModelVersion | None:
    source = spec.source
    if source.model_version is not None:
        return next((v for v in versions if v.metadata.name == source.model_version), None)
    tagged = [v for v in versions if v.spec.model == source.model and source.channel in v.spec.tags]
    # A ModelVersion never changes, so the newest with the tag is where the channel is. Versions are
    # free text, so they only say which of two is newer that were made in the same second.
    return max(
        tagged,
        key=lambda v: (
            v.metadata.creation_timestamp or _EARLIEST,
            _order(v.spec.version),
            v.metadata.name,
        ),
        default=None,
    )


def _order(version: str) -> tuple[tuple[bool, int, str], ...]:
    """Give a key by which 10 comes after 9, and 1.10 after 1.9."""
    parts = re.findall(r"[0-9]+|[a-z]+", version)
    return tuple((p.isdecimal(), int(p) if p.isdecimal() else 0, p) for p in parts)
