"""Where the base model comes from: the Hub, S3, a volume, or made on the spot.

Only safetensors, configuration and tokenizer files are taken; pickled weights and code that a
repository brings are neither fetched nor run. Called by ``prepare`` (tokenizer and configuration
only) and by ``recipe`` (all).
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from tunesmith_api.modelfiles import is_weights, listing_digest, wanted_file
from tunesmith_api.result import UserErrorReason
from tunesmith_api.run import CREDENTIALS_PATH, PVC_PATH, TrainingRun
from tunesmith_api.training import ModelSource
from tunesmith_trainer import tiny
from tunesmith_trainer.outcome import UserError
from tunesmith_trainer.progress import Progress
from tunesmith_trainer.stopping import StopSignal
from tunesmith_trainer.storage import Storage
from tunesmith_trainer.storage.locations import as_prefix, file_path, local_path

_VOCABULARIES = frozenset({"tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt"})
_CONTEXT_FIELDS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")


class FetchedModel(NamedTuple):
    """A model's files on this machine."""

    path: Path
    """The folder with config.json; read-only where it is a volume's."""
    revision: str
    """Commit of the Hub, or a digest of the listing."""


def fetch_tokenizer(
    run: TrainingRun,
    directory: Path,
    *,
    progress: Progress | None = None,
    stop: StopSignal | None = None,
) -> FetchedModel:
    """Fetch configuration and tokenizer into ``directory``; look whether the weights are there.

    Raises UserError: ModelNotFound, ModelInvalid, SequenceTooLong, and those of the storage.
    """
    fetched = _fetch(run, directory, False, progress, stop)
    check_context(run, fetched.path)
    return fetched


def fetch_model(
    run: TrainingRun,
    directory: Path,
    *,
    progress: Progress | None = None,
    stop: StopSignal | None = None,
) -> FetchedModel:
    """Fetch the whole model into ``directory``. Raises as :func:`fetch_tokenizer` does."""
    fetched = _fetch(run, directory, True, progress, stop)
    check_context(run, fetched.path)
    return fetched


def fetch_generator(run: TrainingRun, source: ModelSource, directory: Path) -> FetchedModel:
    """Fetch another model with the credentials of the run's own. Raises as the others do."""
    return _fetch(run.model_copy(update={"model": source}), directory, True, None, None)


def check_context(run: TrainingRun, path: Path) -> None:
    """Raise UserError (SequenceTooLong) when maxSequenceLength is above the model's context."""
    context = context_of(run, path)
    wanted = run.hyperparameters.max_sequence_length
    if context is not None and wanted > context:
        raise UserError(
            UserErrorReason.SEQUENCE_TOO_LONG,
            f"hyperparameters.maxSequenceLength is {wanted}, but {run.model.uri} reads at most"
            f" {context} tokens. Set it to {context} or less.",
        )


def context_of(run: TrainingRun, path: Path) -> int | None:
    """Give how many tokens a model reads by its config.json, where that says it."""
    settings = _text_settings(run, path)
    found = next((settings[name] for name in _CONTEXT_FIELDS if name in settings), None)
    return found if isinstance(found, int) else None


def check_vocabulary(run: TrainingRun, size: int | None, highest: int) -> None:
    """Raise UserError (ModelInvalid) when `highest`, a token of the data, is none of the model's.

    A tokenizer that is larger than the model is fine as long as none of its surplus is used.
    """
    if size is not None and highest >= size:
        raise UserError(
            UserErrorReason.MODEL_INVALID,
            f"The tokenizer of {run.model.uri} makes the token {highest} of the data, but the model"
            f" knows only 0 to {size - 1}. Put tokenizer and weights of one and the same model"
            " there.",
        )


def vocabulary_size(run: TrainingRun, path: Path) -> int | None:
    """Give how many tokens a model knows by its config.json, where that says it."""
    size = _text_settings(run, path).get("vocab_size")
    return size if isinstance(size, int) else None


def _text_settings(run: TrainingRun, path: Path) -> dict[str, Any]:
    try:
        config = orjson.loads((path / "config.json").read_bytes())
        settings = config.get("text_config", config)
    except (OSError, ValueError, AttributeError) as error:
        raise _no_configuration(run, type(error).__name__) from error
    if not isinstance(settings, dict):
        raise _no_configuration(run, "text_config is no object")
    return settings


def _no_configuration(run: TrainingRun, why: str) -> UserError:
    return UserError(
        UserErrorReason.MODEL_INVALID,
        f"config.json of {run.model.uri} is not a model's configuration ({why}).",
    )


def _fetch(
    run: TrainingRun,
    directory: Path,
    whole: bool,
    progress: Progress | None,
    stop: StopSignal | None,
) -> FetchedModel:
    scheme, _, rest = run.model.uri.partition("://")
    if scheme == "builtin":
        tiny.write_tiny(directory)
        return FetchedModel(directory, tiny.REVISION)
    if scheme == "pvc":
        return _from_folder(run.model.uri, local_path(Path(PVC_PATH), rest.rstrip("/")))
    if scheme == "file":
        return _from_folder(run.model.uri, file_path(run.model.uri))
    if scheme == "s3":
        return _from_s3(run, directory, whole, progress, stop)
    # Imported here: the Hub's client takes a second to load and most runs do not need it.
    from tunesmith_trainer.hub import fetch_from_hub

    token_file = Path(CREDENTIALS_PATH) / "model" / "HF_TOKEN"
    return FetchedModel(
        directory,
        fetch_from_hub(rest.strip("/"), run.model.revision, directory, whole, token_file),
    )


def _from_folder(uri: str, path: Path) -> FetchedModel:
    if not path.is_dir():
        raise UserError(
            UserErrorReason.MODEL_NOT_FOUND,
            f"{uri} is not a folder. spec.model.uri must name the one with the model's files.",
        )
    files = {item.name: item.stat() for item in path.iterdir() if item.is_file()}
    check_files(files, uri)
    return FetchedModel(
        path, listing_digest((name, stat.st_size, "") for name, stat in files.items())
    )


def _from_s3(
    run: TrainingRun,
    directory: Path,
    whole: bool,
    progress: Progress | None,
    stop: StopSignal | None,
) -> FetchedModel:
    storage = Storage.open(run.s3, "model", stop=stop)
    prefix = as_prefix(run.model.uri)
    listed = storage.list(prefix)
    if not listed:
        raise UserError(
            UserErrorReason.MODEL_NOT_FOUND,
            f"There is nothing below {prefix}. Correct spec.model.uri, or upload the model there.",
        )
    check_files([info.relative for info in listed], prefix)
    storage.download_prefix(
        prefix,
        directory,
        progress.touch if progress else None,
        include=lambda name: wanted_file(name, whole),
    )
    digest = listing_digest(
        (info.relative, info.size_bytes, info.etag)
        for info in listed
        if wanted_file(info.relative, whole=True)
    )
    return FetchedModel(directory, digest)


def check_files(names: Iterable[str], where: str) -> None:
    """Raise UserError (ModelInvalid) unless ``names`` make a model that can be loaded."""
    names = set(names)
    missing = []
    if "config.json" not in names:
        missing.append("config.json")
    if not any(is_weights(name) for name in names):
        pickled = sorted(name for name in names if name.endswith((".bin", ".pt", ".pth", ".ckpt")))
        missing.append(
            f"weights as .safetensors ({pickled[0]} is a pickle, which could run code and is"
            " never read: convert it)"
            if pickled
            else "weights as .safetensors"
        )
    if not names & _VOCABULARIES:
        missing.append("a tokenizer (tokenizer.json)")
    if missing:
        raise UserError(
            UserErrorReason.MODEL_INVALID,
            f"{where} is not a transformers model: it lacks {', '.join(missing)}."
            " spec.model.uri must name the folder that holds these files.",
        )
