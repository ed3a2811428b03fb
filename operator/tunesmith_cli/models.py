"""Finds the model that a path names: a run, a folder of weights, a GGUF file, a name of the Hub.

Fetches what is elsewhere; loads nothing. Called by ``chatting`` and ``selecting``.
"""

from pathlib import Path
from typing import NamedTuple

import orjson

from tunesmith_api.modelfiles import wanted_file
from tunesmith_api.templating import PROMPT_FILE
from tunesmith_cli.jobfile import as_uri
from tunesmith_cli.mirror import REPORT, Mirror, cache_folder
from tunesmith_cli.mistakes import Refused
from tunesmith_cli.modelfiles import MODELFILE
from tunesmith_cli.results import FILE, S3, Origin, RunFolder, find_run, parse_origin, read_run

_WEIGHTS = ("merged", "adapter", "int8", "package")
"""Folders of artifacts that transformers reads, the best first."""
_GGUF = ("gguf", "ollama")
_ADAPTER = "adapter_config.json"
_PACKAGED = "model"


class Found(NamedTuple):
    """A model that can be talked to."""

    model: Path
    """Its folder; an adapter's base; or a GGUF file."""
    adapter: Path | None = None
    """What goes on top of it."""
    run: RunFolder | None = None
    """The run that it comes from."""
    modelfile: Path | None = None
    """What Ollama would be told of it."""
    prompt: Path | None = None
    """Where it would be said how the model was taught to be asked; the file need not be there."""


def find_model(path: str, work: Path) -> Found:
    """Find what ``path`` names; files that are made go below ``work``.

    Raises Refused, TrainerError.
    """
    origin = parse_origin(path)
    if origin.uri.startswith(S3):
        found = _found(_mirrored(origin), work)
    elif not origin.uri.startswith(FILE):
        return Found(_fetch(origin, "", work / "model"))
    else:
        found = _of_path(origin, work)
    if found is None:
        raise Refused(
            f"{origin.uri.removeprefix(FILE)} has no model that can be talked to: that is one of"
            f" the artifacts {', '.join((*_WEIGHTS, *_GGUF))}, a folder of transformers or of peft,"
            " or a .gguf file."
        )
    return found


def fetch_base(run: RunFolder, work: Path) -> Path:
    """Fetch configuration and tokenizer of the model that a run began with."""
    base, s3 = run.report.base_model, run.run.s3 if run.run else parse_origin("/").s3
    return _fetch(Origin(base.uri, s3), run.report.model_revision, work / "base", is_whole=False)


def _found(path: Path | None, work: Path) -> Found | None:
    """Give what a file is, or the folder of an artifact; None where that is nothing to talk to."""
    if path is None:
        return None
    if path.is_file():
        return _file(path)
    run = _run_above(path)
    if (path / "config.json").is_file():
        return Found(path, None, run)
    if (path / _ADAPTER).is_file():
        return Found(_base_of(path, run, work), path, run)
    if (path / _PACKAGED / "config.json").is_file():
        return Found(path / _PACKAGED, None, run, prompt=path / PROMPT_FILE)
    files = [file for file in (path / MODELFILE, *sorted(path.glob("*.gguf"))) if file.is_file()]
    return _file(files[0]) if files else None


def _file(path: Path) -> Found | None:
    run = _run_above(path.parent)
    if path.name == MODELFILE:
        return Found(path, None, run, path, path.parent / PROMPT_FILE)
    return Found(path, None, run) if path.suffix == ".gguf" else None


def _of_path(origin: Origin, work: Path) -> Found | None:
    """Give what is at a place of this machine. Raises Refused where nothing is."""
    found = _found(origin.path, work) or _found(_committed(origin.path), work)
    if found is None and (not origin.path.exists() or origin.job or _has_run(origin.path)):
        return _of_run(find_run(origin).path, work)
    return found


def _has_run(path: Path) -> bool:
    below = [path / REPORT, *path.glob(f"*/{REPORT}")]
    return path.name == REPORT or any(file.is_file() for file in below)


def _of_run(folder: Path, work: Path) -> Found | None:
    """Give the best form that a run on this machine has."""
    forms = (*_WEIGHTS, *_GGUF)
    return next((f for name in forms if (f := _found(_committed(folder / name), work))), None)


def _committed(folder: Path) -> Path | None:
    """Give the files of an artifact's newest complete attempt."""
    from tunesmith_trainer.storage.local import LocalStorage
    from tunesmith_trainer.storage.manifest import read_manifest

    if not folder.is_dir() or (folder / REPORT).is_file():
        return None
    found = read_manifest(LocalStorage(), f"{FILE}{folder}")
    return Path(found.uri.removeprefix(FILE)) if found else None


def _run_above(folder: Path) -> RunFolder | None:
    """Give the run whose artifact this is: RUN/merged/attempt-3/."""
    report = folder.parent.parent / REPORT
    return read_run(report) if report.is_file() else None


def _mirrored(origin: Origin) -> Path:
    """Bring from S3 what ``origin`` names, and the report of the run that made it."""
    mirror, uri = Mirror(origin.s3), origin.uri.rstrip("/")
    parent, _, name = uri.rpartition("/")
    is_inside = name == MODELFILE or name.endswith(".gguf")
    artifact = parent if is_inside else uri
    if folder := mirror.artifact(artifact):
        # RUN/merged/attempt-3/, however much of it was said.
        above = artifact.removesuffix(f"/{folder.name}").rpartition("/")[0]
        if folder.name.startswith("attempt-") and not above.endswith("/"):
            mirror.run(f"{above}/{REPORT}")
        return folder / name if is_inside else folder
    if found := mirror.run(uri, origin.job):
        forms = (mirror.artifact(f"{found.uri}{name}") for name in (*_WEIGHTS, *_GGUF))
        return next(filter(None, forms), found.folder)
    if plain := mirror.files(uri, _is_of_model):
        return plain
    raise Refused(
        f"There is no model and no finished run at {uri}, at {origin.s3.endpoint or 'Amazon S3'}:"
        " give the prefix of a run, of one of its artifacts or of a model's files."
    )


def _is_of_model(name: str) -> bool:
    is_gguf = name.endswith(".gguf") and "/" not in name
    return is_gguf or name in (_ADAPTER, MODELFILE, PROMPT_FILE) or wanted_file(name, whole=True)


def _base_of(adapter: Path, run: RunFolder | None, work: Path) -> Path:
    settings = orjson.loads((adapter / _ADAPTER).read_bytes())
    base = settings.get("base_model_name_or_path") or ""
    if "://" not in base and not Path(base).exists():
        # As transformers writes it: a name of the Hub.
        base = f"hf://{base}"
    revision = run.report.model_revision if run else ""
    s3 = run.run.s3 if run and run.run else parse_origin("/").s3
    return _fetch(Origin(as_uri(base, adapter), s3), revision, work / "model")


def _fetch(origin: Origin, revision: str, directory: Path, *, is_whole: bool = True) -> Path:
    """Bring a base model to this machine: whole, or its configuration and tokenizer alone."""
    from tunesmith_trainer.sources import check_files

    scheme, _, name = origin.uri.partition("://")
    if scheme == "file":
        return origin.path
    if origin.uri == "builtin://tiny":
        from tunesmith_trainer.tiny import write_tiny

        write_tiny(directory)
        return directory
    if scheme == "s3":
        found = Mirror(origin.s3).files(origin.uri, lambda file: wanted_file(file, is_whole))
        if found is None:
            raise Refused(f"There is no model at {origin.uri}")
        if is_whole:
            check_files([file.name for file in found.iterdir()], origin.uri)
        return found
    if scheme != "hf":
        raise Refused(
            f"{origin.uri}: give a path, s3://BUCKET/PREFIX, hf://ORGANIZATION/NAME or"
            " builtin://tiny"
        )
    from tunesmith_trainer.hub import fetch_from_hub

    folder = cache_folder("hub") / name.strip("/") / (revision or "main").replace("/", "-")
    fetch_from_hub(name.strip("/"), revision, folder, is_whole, Path())
    return folder
