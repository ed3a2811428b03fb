"""A folder that somebody without Tunesmith can use: model, program, requirements, README.

`inference.py` beside is what the folder holds, as it is; nothing here imports it. Called by
`artifacts`.
"""

from importlib.metadata import version
from pathlib import Path
from shutil import copyfile
from typing import Final

from tunesmith_api.templating import Prompt
from tunesmith_trainer.data.prompting import write_prompt
from tunesmith_trainer.linking import link_tree

MODEL: Final = "model"
PROGRAM: Final = "inference.py"
# What the program imports, and what those need to load safetensors and render templates.
_NEEDED: Final = ("torch", "transformers", "safetensors", "tokenizers", "jinja2")


def write_package(merged: Path, prompt: Prompt, directory: Path) -> None:
    """Put the complete model of `merged` and all that is needed to talk to it into `directory`."""
    link_tree(merged, directory / MODEL)
    copyfile(Path(__file__).parent / PROGRAM, directory / PROGRAM)
    write_prompt(prompt, directory)
    (directory / "requirements.txt").write_text(requirements())


def requirements() -> str:
    """Give requirements.txt with the versions that this trainer has itself."""
    # A build for one kind of GPU (2.9.0+cu128) is on no package index.
    return "".join(f"{name}=={version(name).partition('+')[0]}\n" for name in _NEEDED)
