"""The documentation does not point at what is not there."""

import re
from pathlib import Path

import pytest

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


def test_reasons_in_the_runbook_are_words_of_the_contract() -> None:
    known = set(re.findall(r"^\| `(\w+)` ", CONDITIONS, re.MULTILINE))
    tables = "\n".join(line for line in RUNBOOK.splitlines() if line.startswith("| `"))
    first_cells = re.findall(r"^\| (.+?) \|", tables, re.MULTILINE)
    named = {w for cell in first_cells for w in re.findall(r"\b(?:[A-Z][a-z]+){2,}\b", cell)}
    assert len(named) > 20
    assert named - known == set()


def test_metrics_in_the_runbook_are_served() -> None:
    served = telemetry.render().decode()
    named = set(re.findall(r"tunesmith_[a-z_]+", RUNBOOK))
    assert len(named) > 5
    assert [n for n in sorted(named) if f"# TYPE {n}" not in served] == []
