"""Rules of the house that no linter knows."""

import ast
import re
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Asked for only where they are there: extras, and types.
OPTIONAL = {"liger_kernel", "lm_eval", "mlflow", "wandb", "mypy_boto3_s3"}


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


def test_modules_and_functions_are_short() -> None:
    long = []
    for folder in ("operator", "trainer_image", "deploy"):
        for path in (ROOT / folder).rglob("*.py"):
            text = path.read_text()
            if len(text.splitlines()) > 300:
                long.append(str(path.relative_to(ROOT)))
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    lines = (node.end_lineno or 0) - node.lineno + 1
                    if lines > 40:
                        long.append(f"{path.relative_to(ROOT)}: {node.name}, {lines} lines")
    assert long == [], "modules have at most 300 lines, functions 40"


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


@pytest.mark.parametrize(
    ("lock", "packages"),
    [
        (
            "trainer",
            [
                "operator/tunesmith_api",
                "operator/tunesmith_process",
                "trainer_image/tunesmith_trainer",
            ],
        ),
        (
            "operator",
            [
                "operator/tunesmith_api",
                "operator/tunesmith_process",
                "operator/tunesmith_operator",
                "operator/tunesmith_sidecar",
                "operator/tunesmith_router",
            ],
        ),
    ],
)
def test_an_image_holds_what_its_code_imports(lock: str, packages: list[str]) -> None:
    pinned = pins(lock)
    homes = packages_distributions()
    missing = {
        f"{file.relative_to(ROOT)}: {name}"
        for package in packages
        for file in (ROOT / package).rglob("*.py")
        for name in imported(file)
        if name not in sys.stdlib_module_names and not name.startswith("tunesmith_")
        if name not in OPTIONAL
        if not {normal(home) for home in homes.get(name, [])} & pinned
    }
    assert missing == set()


@pytest.mark.parametrize(
    ("lock", "package"),
    [
        pytest.param("operator", "torch", id="the operator computes nothing on GPUs"),
        pytest.param("trainer", "kopf", id="the trainer is no operator"),
        pytest.param("trainer", "kubernetes", id="the trainer does not talk to the API server"),
    ],
)
def test_an_image_holds_nothing_of_the_other(lock: str, package: str) -> None:
    both = {"operator": pins("operator"), "trainer": pins("trainer")}
    assert package not in both.pop(lock)
    (other,) = both.values()
    assert package in other, "the name is right"


def pins(lock: str) -> set[str]:
    """Give the packages that a lock file has."""
    text = (ROOT / f"requirements/{lock}.txt").read_text()
    return set(re.findall(r"^([a-z0-9._-]+)==", text, re.M))


def imported(file: Path) -> set[str]:
    """Give the first parts of the names of all modules that are imported, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
