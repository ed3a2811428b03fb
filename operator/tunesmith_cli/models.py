"""Finds the model that a path names: a run, a folder of weights, a name of the Hub, the tiny one.

Fetches what is elsewhere; loads nothing. Called by ``chatting``.
"""

from pathlib import Path
from typing import NamedTuple

import orjson

from tunesmith_api.run import TrainingRun
from tunesmith_cli.jobfile import as_uri
from tunesmith_cli.mistakes import Refused
from tunesmith_cli.results import REPORT, find_run

_FILE = "file://"
_FORMS = ("merged", "adapter", "int8", "package")
"""Folders of artifacts that can be talked to, the best first."""
_PACKAGED = "model"


class Found(NamedTuple):
    """A model that can be talked to."""

    model: Path
    """Its folder; an adapter's base."""
    adapter: Path | None = None
    """What goes on top of it."""
    run: TrainingRun | None = None
    """The run that it comes from."""


def find_model(path: str, work: Path) -> Found:
    """Find what ``path`` names; files that are fetched go below ``work``. Raises Refused."""
    if "://" in path and not path.startswith(_FILE):
        return Found(_fetch(path, "", work / "model"))
    folder = Path(path.removeprefix(_FILE)).expanduser().resolve()
    found = _loaded(folder, work) or _loaded(_committed(folder), work)
    if found is None and not _gguf_in(_committed(folder) or folder):
        above = find_run(folder).path
        found = next((f for n in _FORMS if (f := _loaded(_committed(above / n), work))), None)
    if found is None:
        file = _gguf_in(_committed(folder) or folder) or "A GGUF file"
        raise Refused(
            f"{folder} has no model that can be talked to here, which {', '.join(_FORMS)} are."
            f" {file} is for llama.cpp (llama-cli -m FILE) and Ollama."
        )
    return found


def _loaded(folder: Path | None, work: Path) -> Found | None:
    """Give what is in the folder of an artifact; None where that is nothing to talk to."""
    if folder is None:
        return None
    if (folder / "config.json").is_file():
        return Found(folder, None, _run_above(folder))
    if (folder / "adapter_config.json").is_file():
        return Found(_base_of(folder, work), folder, _run_above(folder))
    if (folder / _PACKAGED / "config.json").is_file():
        return Found(folder / _PACKAGED, None, _run_above(folder))
    return None


def _gguf_in(path: Path) -> Path | None:
    if path.suffix == ".gguf":
        return path
    return next(path.glob("*.gguf"), None)


def _committed(folder: Path) -> Path | None:
    """Give the files of an artifact's newest complete attempt."""
    from tunesmith_trainer.storage.local import LocalStorage
    from tunesmith_trainer.storage.manifest import read_manifest

    if not folder.is_dir() or (folder / REPORT).is_file():
        return None
    found = read_manifest(LocalStorage(), f"{_FILE}{folder}")
    return Path(found.uri.removeprefix(_FILE)) if found else None


def _run_above(folder: Path) -> TrainingRun | None:
    """Give the run whose artifact this is: RUN/merged/attempt-3/."""
    above = folder.parent.parent
    return find_run(above).run if (above / REPORT).is_file() else None


def _base_of(adapter: Path, work: Path) -> Path:
    settings = orjson.loads((adapter / "adapter_config.json").read_bytes())
    base = settings.get("base_model_name_or_path") or ""
    run = _run_above(adapter)
    if "://" not in base and not Path(base).exists():
        # As transformers writes it: a name of the Hub.
        base = f"hf://{base}"
    return _fetch(as_uri(base, adapter), run.model.revision if run else "", work / "model")


def _fetch(uri: str, revision: str, directory: Path) -> Path:
    scheme, _, name = uri.partition("://")
    if scheme == "file":
        return Path(uri.removeprefix(_FILE))
    if uri == "builtin://tiny":
        from tunesmith_trainer.tiny import write_tiny

        write_tiny(directory)
        return directory
    if scheme != "hf":
        raise Refused(f"{uri}: give a folder, hf://ORGANIZATION/NAME or builtin://tiny")
    from tunesmith_trainer.hub import fetch_from_hub

    fetch_from_hub(name.strip("/"), revision, directory, True, Path())
    return directory
