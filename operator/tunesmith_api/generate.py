"""``python -m tunesmith_api.generate ROOT``: writes all files that follow from the contract.

Called by ``make generate`` and, into a temporary folder, by ``make verify``. Needs PyYAML, which
only the development environment has.
"""

import re
import sys
from pathlib import Path

import yaml

from tunesmith_api.crd import definitions
from tunesmith_api.meanings import render_markdown
from tunesmith_api.reference import render_reference

_NUMBER = re.compile(r"[-+]?[0-9.]+([eE][-+]?[0-9]+)?")


class _Dumper(yaml.SafeDumper):
    """PyYAML reads 2e-4 as text and writes it without quotes; Kubernetes reads it as a number."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "'" if _NUMBER.fullmatch(text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)

_HEAD = "# Generated from operator/tunesmith_api by `make generate`. Do not edit.\n"
_SERVED = ("crds", "charts/tunesmith/files/crds")


def generate(root: Path) -> list[Path]:
    """Write the CRDs, their copy in the chart, and two pages of docs/ below ``root``."""
    written = []
    for name, definition in definitions().items():
        text = _HEAD + yaml.dump(definition, Dumper=_Dumper, sort_keys=False, width=100)
        file = f"tunesmith.dev_{name}.yaml"
        written += [_write(root / folder / file, text) for folder in _SERVED]
    written.append(_write(root / "docs" / "conditions.md", render_markdown()))
    written.append(_write(root / "docs" / "reference.md", render_reference(definitions())))
    return written


def _write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


if __name__ == "__main__":
    for path in generate(Path(sys.argv[1] if len(sys.argv) > 1 else ".")):
        sys.stdout.write(f"{path}\n")
