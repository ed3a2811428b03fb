"""Rules of the house that no linter knows."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_the_folders_that_hold_packages_are_no_packages() -> None:
    # operator/__init__.py would shadow the standard library's operator for whatever starts here.
    assert not (ROOT / "operator" / "__init__.py").exists()
    assert not (ROOT / "trainer_image" / "__init__.py").exists()


def test_every_module_says_what_it_is_for() -> None:
    for folder in ("operator", "trainer_image", "deploy"):
        for path in (ROOT / folder).rglob("*.py"):
            text = path.read_text().lstrip()
            assert text.startswith(('"""', "#!")), f"{path.relative_to(ROOT)} has no head"


def test_no_module_is_called_by_an_empty_word() -> None:
    banned = {"utils", "helpers", "common", "base", "manager", "core"}
    names = {
        p.stem for f in ("operator", "trainer_image", "deploy") for p in (ROOT / f).rglob("*.py")
    }
    assert not names & banned


@pytest.mark.parametrize("name", ["operator", "trainer"])
def test_dockerignore_lets_through_what_a_dockerfile_copies(name: str) -> None:
    lines = (ROOT / f"Dockerfile.{name}").read_text().splitlines()
    copies = [line.split()[1:-1] for line in lines if line.startswith("COPY ")]
    sources = {source for copy in copies if "--from" not in " ".join(copy) for source in copy}
    allowed = {
        line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"
    }
    assert sources
    assert sources <= allowed
