"""`pip install ".[trainer,cli]"` is enough: a fresh environment, away from the checkout.

`make test-install` runs it; by itself no other command does, as it takes a minute or two and, for
as long as it runs, up to 6 GB.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UV = shutil.which("uv", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
QUESTION = "What color is the sky?"

pytestmark = [
    pytest.mark.timeout(1200),
    pytest.mark.skipif(not UV, reason="no uv beside this Python or on PATH"),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with an environment of its own and the examples; removed, as it is large."""
    folder = tmp_path_factory.mktemp("install")
    python = folder / "venv/bin/python"
    # The versions of the image, whose wheels the development environment has brought already.
    pins = ["--constraint", str(ROOT / "requirements/trainer.txt")]
    wanted = f"{ROOT}[trainer,cli]"
    for command in (
        ["venv", "--python", sys.executable, str(folder / "venv")],
        ["pip", "install", "--quiet", "--python", str(python), *pins, wanted],
    ):
        subprocess.run([str(UV), *command], check=True, cwd=folder)
    shutil.copytree(ROOT / "examples", folder / "examples")
    (folder / "home").mkdir()
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def tell(place: Path, *arguments: str, program: str = "tunesmith") -> str:
    """Run a program of the environment to its end, with nothing of the checkout around it."""
    environment = {"HOME": str(place / "home"), "PATH": "/usr/bin:/bin", "COLUMNS": "200"}
    told = subprocess.run(
        [str(place / "venv/bin" / program), *arguments],
        cwd=place,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert told.returncode == 0, told.stdout + told.stderr
    return told.stdout


def test_the_packages_are_those_of_the_environment(place: Path) -> None:
    code = "import tunesmith_cli, tunesmith_trainer; print(tunesmith_trainer.__file__)"
    assert str(place / "venv") in tell(place, "-c", code, program="python")


def test_what_the_readme_says_first_works(place: Path) -> None:
    made = tell(place, "run", "examples/local/job.yaml")
    assert "Gates: Passed" in made
    assert (place / "out").is_dir()
    answer = tell(place, "chat", "out/", "--prompt", QUESTION, "--max-tokens", "8")
    assert answer.endswith("\n")
    report = tell(place, "report", "out/", "--no-open")
    assert "heldout/loss" in report and str(place / "out") in report


def test_data_is_looked_at_and_picked_from(place: Path) -> None:
    rows = "examples/data/about-tunesmith.jsonl"
    checked = tell(place, "data", "check", rows, "--model", "builtin://tiny")
    assert "PromptResponse" in checked
    picked = ("--model", "builtin://tiny", "--count", "3", "--out", "worth.jsonl")
    tell(place, "data", "select", rows, *picked)
    assert len((place / "worth.jsonl").read_text().splitlines()) == 3
