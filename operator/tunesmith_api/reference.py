"""Writes docs/reference.md: every field of the kinds, out of the CRDs themselves.

So it says nothing that the API server does not hold to. Pure; called by ``generate``.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

Schema = Mapping[str, Any]

_HEAD = (
    "# Reference\n\n"
    "Every field of the kinds, as `kubectl explain` has it. Generated from `operator/tunesmith_api`"
    " by `make generate`; do not edit. Conditions and reasons are in"
    " [conditions.md](conditions.md), the chart's values in"
    " [values.yaml](../charts/tunesmith/values.yaml).\n\n"
    "Decimals are strings. `[]` is a list's item, `*` any name. A field without a default may be"
    " left out unless it says *required*.\n"
)
_TABLE = "| field | type | default | |\n| --- | --- | --- | --- |\n"
_BOUNDS = {"minimum": "≥ {}", "maximum": "≤ {}", "minItems": "≥ {} items", "maxItems": "≤ {} items"}


def render_reference(definitions: Mapping[str, Schema]) -> str:
    """Give the page; ``definitions`` are CRDs by the plural of their kind."""
    parts = [_HEAD]
    for definition in definitions.values():
        names = definition["spec"]["names"]
        parts.append(f"\n## {names['kind']}\n\nShort: {', '.join(names['shortNames'])}.\n")
        for version in definition["spec"]["versions"]:
            schema = version["schema"]["openAPIV3Schema"]
            parts += [_section(part, schema["properties"][part]) for part in ("spec", "status")]
    return "".join(parts)


def _section(name: str, schema: Schema) -> str:
    rows = "".join(f"{row}\n" for row in _rows(schema, name))
    rules = "".join(f"- {message}\n" for message in _rules(schema, name))
    refused = f"\nRefused by rules of the CRD:\n\n{rules}" if rules else ""
    return (
        f"\n### {name}\n\n| field | type | default | |\n| --- | --- | --- | --- |\n{rows}{refused}"
    )


def _rows(schema: Schema, path: str) -> Iterator[str]:
    required = schema.get("required", ())
    for name, field in schema.get("properties", {}).items():
        where = f"{path}.{name}"
        default = _default(field) or ("*required*" if name in required else "")
        text = _cell(field.get("description", ""))
        yield f"| `{where.partition('.')[2]}` | {_kind(field)} | {default} | {text} |"
        yield from _rows(*_inside(field, where))


def _inside(field: Schema, path: str) -> tuple[Schema, str]:
    """Go down through lists and maps to what has fields."""
    if "items" in field:
        return _inside(field["items"], f"{path}[]")
    more = field.get("additionalProperties")
    return _inside(more, f"{path}.*") if isinstance(more, Mapping) else (field, path)


def _rules(schema: Schema, path: str) -> Iterator[str]:
    inner, where = _inside(schema, path)
    levels = {id(level): level for level in (schema, inner)}
    for level in levels.values():
        for rule in level.get("x-kubernetes-validations", ()):
            yield f"`{where}`: {_cell(rule['message'])}"
    for name, field in inner.get("properties", {}).items():
        yield from _rules(field, f"{where}.{name}")


def _kind(field: Schema) -> str:
    if "enum" in field:
        return ", ".join(f"`{value}`" if value else "empty" for value in field["enum"])
    told = str(field.get("format", field.get("type", "any")))
    if "items" in field:
        told = f"list of {_kind(field['items'])}"
    elif isinstance(field.get("additionalProperties"), Mapping):
        told = f"map of {_kind(field['additionalProperties'])}"
    bounds = [text.format(field[key]) for key, text in _BOUNDS.items() if key in field]
    return " ".join((told, ", ".join(bounds))).strip()


def _default(field: Schema) -> str:
    default = field.get("default")
    # A section has those of its fields.
    return "" if default in (None, "", {}, []) else f"`{json.dumps(default, ensure_ascii=False)}`"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
