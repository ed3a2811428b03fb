"""What the documentation names is there: fields, values, commands, options, metrics, examples."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from tests.unit.test_docs import PAGES, ROOT
from tunesmith_cli.main import app

USERS = [
    page
    for page in PAGES
    if "decisions" not in page.parts and page.name not in {"CHANGELOG.md", "architecture.md"}
]
CRDS = [yaml.safe_load(file.read_text()) for file in sorted((ROOT / "crds").glob("*.yaml"))]
KINDS = {
    crd["spec"]["names"]["kind"]: version["schema"]["openAPIV3Schema"]
    for crd in CRDS
    for version in crd["spec"]["versions"]
}
VALUES = yaml.safe_load((ROOT / "charts" / "tunesmith" / "values.yaml").read_text())
MAKEFILES = "".join((ROOT / file).read_text() for file in ("Makefile", "deploy/deploy.mk"))
CODE = "".join(
    file.read_text() for top in ("operator", "trainer_image") for file in (ROOT / top).rglob("*.py")
)
FILES = {"cfg", "html", "json", "jsonl", "lua", "md", "png", "py", "toml", "txt", "yaml"}
# Names that others have given: to keys of a log or of metrics, to attributes of a library.
OTHERS = {
    "feedback.time",
    "pytest.param",
    "rewards.accuracy",
    "rewards.chosen",
    "rewards.margin",
    "rewards.rejected",
    "tunesmith.attempt",
    "tunesmith.dataset",
    "tunesmith.dev",
    "tunesmith.job",
    "tunesmith.report",
    "tunesmith.run",
    "tunesmith.uid",
}

on_each_page = pytest.mark.parametrize("page", USERS, ids=lambda p: str(p.relative_to(ROOT)))


def fields(schema: dict[str, Any], path: str = "") -> Iterator[str]:
    for name, field in schema.get("properties", {}).items():
        yield f"{path}.{name}"
        yield from fields(field, f"{path}.{name}")
    for inner in (schema.get("items"), schema.get("additionalProperties")):
        if isinstance(inner, dict):
            yield from fields(inner, path)


def keys(values: Any, path: str = "") -> Iterator[str]:
    if isinstance(values, dict):
        for name, value in values.items():
            yield f"{path}.{name}"
            yield from keys(value, f"{path}.{name}")


# With a dot before: a name is right where the end of a path is.
PATHS = {*keys(VALUES), *(path for schema in KINDS.values() for path in fields(schema))}


def quoted(page: Path) -> list[str]:
    return re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL))


@on_each_page
def test_fields_and_values_exist(page: Path) -> None:
    named = {re.split("[:= ]", text)[0].replace("[]", "") for text in quoted(page)}
    dotted = {n for n in named if re.fullmatch(r"[a-z][A-Za-z0-9]*(\.[a-z][A-Za-z0-9]*)+", n)}
    dotted = {name for name in dotted - OTHERS if name.rpartition(".")[2] not in FILES}
    assert [n for n in sorted(dotted) if not any(p.endswith(f".{n}") for p in PATHS)] == []


@on_each_page
def test_targets_of_make_exist(page: Path) -> None:
    targets = set(re.findall(r"(?:^|`)make ([a-z0-9-]+)", page.read_text(), re.MULTILINE))
    missing = [t for t in sorted(targets) if not re.search(f"^{t}:", MAKEFILES, re.MULTILINE)]
    # "the `make bench-…` commands"
    assert [t for t in missing if not t.endswith("-")] == []


@on_each_page
def test_metrics_exist(page: Path) -> None:
    named = set(re.findall(r"\btunesmith_[a-z_]+[a-z]", page.read_text()))
    bare = {name: re.sub("_(bucket|count|sum|total)$", "", name) for name in named}
    # The trainer's own are made of the names that its report has, too.
    reported = {n for n in named if n.removeprefix("tunesmith_trainer_") in CODE}
    assert [n for n in sorted(named - reported) if n not in CODE and bare[n] not in CODE] == []


def options_of_commands() -> dict[str, set[str]]:
    def walk(command: Any, path: tuple[str, ...]) -> Iterator[tuple[str, set[str]]]:
        if hasattr(command, "commands"):
            for name, inner in command.commands.items():
                yield from walk(inner, (*path, name))
        else:
            yield " ".join(path), {o for p in command.params for o in (*p.opts, "--help")}

    return dict(walk(typer.main.get_command(app), ()))


def test_commands_and_their_options_exist() -> None:
    known = options_of_commands()
    lines = [
        f"{line} "
        for page in USERS
        for line in re.findall(r"(?:^|`)tunesmith ([a-z][^`#|\n]*)", page.read_text(), re.MULTILINE)
    ]
    assert len(lines) > 15
    wrong = []
    for line in lines:
        command = next((c for c in known if line.startswith(f"{c} ")), "")
        named = set(re.findall(r"(--[a-z][a-z-]*)", line))
        if not command or named - known[command]:
            wrong.append(line)
    assert wrong == []


def misfits(value: Any, schema: dict[str, Any], path: str) -> list[str]:
    """Give what of a YAML value the schema does not have."""
    if isinstance(value, list):
        inner = schema.get("items", {})
        return [hit for item in value for hit in misfits(item, inner, f"{path}[]")]
    if not isinstance(value, dict):
        allowed = schema.get("enum")
        return [f"{path}: {value}"] if allowed and value not in allowed else []
    named, hits = schema.get("properties", {}), []
    others = schema.get("additionalProperties")
    for key, item in value.items():
        inner = named.get(key, others if isinstance(others, dict) else None)
        at = f"{path}.{key}"
        hits += [at] if inner is None else misfits(item, inner, at)
    return hits


def sections(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if "properties" in schema:
        yield schema
    for inner in (*schema.get("properties", {}).values(), schema.get("items")):
        if isinstance(inner, dict):
            yield from sections(inner)


def blocks() -> list[Any]:
    return [
        pytest.param(yaml.safe_load(block), id=f"{page.name}-{number}")
        for page in USERS
        for number, block in enumerate(
            re.findall(r"```yaml\n(.*?)```", page.read_text(), re.DOTALL)
        )
    ]


@pytest.mark.parametrize("block", blocks())
def test_yaml_is_what_the_api_server_takes(block: Any) -> None:
    if isinstance(block, list) or "task" in block:
        return  # items of a list, and files of others
    if "kind" in block:
        body = {key: value for key, value in block.items() if key != "metadata"}
        assert misfits(body, KINDS[block["kind"]], block["kind"]) == []
        return
    fitting = [s for k in KINDS.values() for s in sections(k) if set(block) <= {*s["properties"]}]
    assert fitting, f"no section has {sorted(block)}"
    assert min((misfits(block, section, "") for section in fitting), key=len) == []


def test_every_page_is_led_to() -> None:
    """A page that no other page names is found by nobody."""
    linked = {
        (page.parent / link).resolve()
        for page in PAGES
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
    }
    pages = {page.resolve() for page in PAGES if (ROOT / "docs") in page.parents}
    folders = {path for path in linked if path.is_dir()}
    lost = [p.name for p in sorted(pages - linked) if p.parent not in folders]
    assert lost == []


def test_anchors_lead_to_headings() -> None:
    def anchors(page: Path) -> set[str]:
        heads = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
        return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}

    dead = []
    for page in PAGES:
        for link, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", page.read_text()):
            target = (page.parent / link) if link else page
            if target.is_file() and anchor not in anchors(target):
                dead.append(f"{page.name}: {link}#{anchor}")
    assert dead == []
