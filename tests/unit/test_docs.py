"""The documentation does not point at what is not there."""

import ast
import re
from pathlib import Path

import pytest

from tunesmith_api.attempts import AttemptReason
from tunesmith_api.conditions import DeploymentReason, Reason
from tunesmith_api.deploymentstatus import RollbackReason
from tunesmith_api.result import PREPARED_DATA_LOST, UserErrorReason
from tunesmith_operator import telemetry

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text()
CONDITIONS = (ROOT / "docs" / "conditions.md").read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_relative_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text())
    dead = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert dead == []


def test_modules_named_in_the_architecture_exist() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    named = set(re.findall(r"`((?:[a-z_]+/)*[a-z_]+\.py)`", text))
    roots = [
        ROOT / "operator" / "tunesmith_operator",
        ROOT / "operator" / "tunesmith_api",
        ROOT / "operator" / "tunesmith_sidecar",
        ROOT / "operator" / "tunesmith_router",
        ROOT / "operator" / "tunesmith_cli",
        ROOT / "trainer_image" / "tunesmith_trainer",
    ]
    assert named
    assert [n for n in sorted(named) if not any((root / n).exists() for root in roots)] == []


# Words of a status that ask nobody to do anything.
CALM = {
    Reason.VALID_SPEC,
    Reason.WAITING,
    Reason.STARTING,
    Reason.RUNNING,
    Reason.RETRYING,
    Reason.PREPARED,
    Reason.TRAINED,
    Reason.GATES_PASSED,
    Reason.UNGATED,
    Reason.UPLOADED,
    Reason.SUSPENDED_BY_USER,
    Reason.RESUMED,
    Reason.ADMITTED,
    Reason.VERSION_CREATED,
    Reason.CHANNEL_TAGGED,
    AttemptReason.SUCCEEDED,
    AttemptReason.SUSPENDED,
    DeploymentReason.SERVING,
    DeploymentReason.ANALYSING,
    DeploymentReason.PROMOTING,
    DeploymentReason.ROLLING_BACK,
    DeploymentReason.ROLLOUT_COMPLETE,
    DeploymentReason.NOT_ROLLED_BACK,
    DeploymentReason.NOT_STALLED,
}


def test_reasons_in_the_runbook_are_words_of_the_code() -> None:
    known = set(re.findall(r"^\| `(\w+)` ", CONDITIONS, re.MULTILINE)) | trainers_reasons()
    named = {w for cell in first_cells() for w in re.findall(r"\b(?:[A-Z][a-z]+){2,}\b", cell)}
    assert len(named) > 20
    assert named - known == set()


def test_what_somebody_has_to_mend_is_in_the_runbook() -> None:
    kinds = (Reason, UserErrorReason, AttemptReason, DeploymentReason, RollbackReason)
    reasons = {reason.value for kind in kinds for reason in kind if reason not in CALM}
    rows = {word for cell in first_cells() for word in re.findall(r"\w+", cell)}
    assert reasons - rows == set()
    assert trainers_reasons() - rows == set()


def first_cells() -> list[str]:
    """Give the first cells of the runbook's rows that begin with a word of a status."""
    return re.findall(r"^\| (`.+?) \|", RUNBOOK, re.MULTILINE)


def trainers_reasons() -> set[str]:
    """Give the reasons of failures that are nobody's fault inside the job, from the trainer's code.

    They are in its log and its termination message, and in no condition.
    """
    calls = (
        node
        for file in (ROOT / "trainer_image").rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "Infrastructure"
    )
    named = {call.args[0].value for call in calls if isinstance(call.args[0], ast.Constant)}
    return {str(name) for name in named} | {PREPARED_DATA_LOST}


def test_metrics_in_the_runbook_are_served() -> None:
    served = telemetry.render().decode()
    named = set(re.findall(r"tunesmith_[a-z_]+", RUNBOOK))
    assert len(named) > 5
    assert [n for n in sorted(named) if f"# TYPE {n}" not in served] == []
