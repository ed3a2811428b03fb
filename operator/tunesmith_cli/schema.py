"""Checks a FineTuneJob as the API server does: its CRD's schema, defaults and CEL rules.

The sentences are the API server's. Two things differ: files of this machine are allowed, and the
rules on changes have no old object to look at. Pure; called by ``jobfile``.
"""

from collections.abc import Iterator
from copy import deepcopy
from functools import cache
from typing import Any

import cel
import jsonschema

from tunesmith_api import API_VERSION
from tunesmith_api.crd import definitions
from tunesmith_api.finetunejob import FineTuneJob
from tunesmith_api.meta import IN_CLUSTER
from tunesmith_cli.mistakes import Mistake, Path, dotted, suggestion

Schema = dict[str, Any]


@cache
def job_schema() -> Schema:
    """Give the structural schema of a FineTuneJob, as in the committed CRD."""
    (version,) = definitions()[FineTuneJob.PLURAL]["spec"]["versions"]
    found: Schema = version["schema"]["openAPIV3Schema"]
    return found


def field_schema(path: Path) -> Schema | None:
    """Give the schema of a field of the job, or None where there is no such field."""
    schema = job_schema()
    for part in path:
        if isinstance(part, int):
            schema = schema.get("items", {})
        elif "additionalProperties" in schema:
            schema = schema["additionalProperties"]
        else:
            schema = schema.get("properties", {}).get(part)
        if not schema:
            return None
    return schema


def check(document: dict[str, Any]) -> list[Mistake]:
    """Give all that is wrong with a job; fills its defaults in where nothing is."""
    wrong = [*_check_type(document), *_check_name(document), *_check_fields(document)]
    rules = list(_broken_rules(document, job_schema(), ()))
    wrong += [mistake for mistake, was_tried in rules if was_tried]
    # What a rule stumbles over is said already, by the field's own schema or by another rule.
    return wrong or [mistake for mistake, _ in rules]


def _check_type(document: dict[str, Any]) -> Iterator[Mistake]:
    wanted = {"apiVersion": API_VERSION, "kind": FineTuneJob.KIND}
    for name, value in wanted.items():
        if document.get(name) != value:
            yield Mistake((name,), f"must be {value}, not {document.get(name)}")


def _check_name(document: dict[str, Any]) -> Iterator[Mistake]:
    metadata = document.get("metadata")
    if not isinstance(metadata, dict) or not isinstance(metadata.get("name"), str):
        yield Mistake(("metadata", "name"), "Required value: name is required")


def _check_fields(document: dict[str, Any]) -> Iterator[Mistake]:
    schema = job_schema()
    yield from _unknown(document, schema, ())
    _drop_nulls(document)
    _fill_in(document, schema)
    # Draft 4 is what OpenAPI 3.0, and with it a CRD, takes its keywords from.
    errors = jsonschema.Draft4Validator(schema).iter_errors(document)
    wrong = list(dict.fromkeys(mistake for error in errors for mistake in _sentences(error)))
    wrong += _repeated(document, schema, ())
    yield from sorted(wrong, key=lambda mistake: dotted(mistake.path))


def _parts(value: Any, schema: Schema) -> Iterator[tuple[str | int, Any, Schema]]:
    """Give what is directly below a value, with its schema."""
    if isinstance(value, dict):
        properties, others = schema.get("properties", {}), schema.get("additionalProperties")
        for name, part in value.items():
            if inner := properties.get(name, others):
                yield name, part, inner
    elif isinstance(value, list) and "items" in schema:
        for number, part in enumerate(value):
            yield number, part, schema["items"]


def _unknown(value: Any, schema: Schema, path: Path) -> Iterator[Mistake]:
    known = schema.get("properties")
    # Metadata is any object to a CRD; the API server knows its fields by itself.
    if isinstance(value, dict) and known:
        for name in value.keys() - known.keys():
            place = (*path, name)
            hint = suggestion(str(name), known)
            yield Mistake(place, f'unknown field "{dotted(place)}"{hint}')
    for name, part, inner in _parts(value, schema):
        yield from _unknown(part, inner, (*path, name))


def _drop_nulls(value: Any) -> None:
    """A field without a value is a field left out, as for the API server."""
    if isinstance(value, dict):
        for name in [name for name, part in value.items() if part is None]:
            del value[name]
    for part in value.values() if isinstance(value, dict) else value:
        if isinstance(part, dict | list):
            _drop_nulls(part)


def _fill_in(value: Any, schema: Schema) -> None:
    if isinstance(value, dict):
        for name, inner in schema.get("properties", {}).items():
            if name not in value and "default" in inner:
                value[name] = deepcopy(inner["default"])
    for _, part, inner in _parts(value, schema):
        _fill_in(part, inner)


def _sentences(error: jsonschema.ValidationError) -> Iterator[Mistake]:
    path: Path = tuple(error.absolute_path)
    if error.validator == "required":
        instance: Any = error.instance
        for name in _list(error.validator_value):
            if name not in instance:
                yield Mistake((*path, name), "Required value")
        return
    yield Mistake(path, _sentence(error, dotted(path)))


def _sentence(error: jsonschema.ValidationError, field: str) -> str:
    limit, value, names = error.validator_value, error.instance, _list(error.validator_value)
    body = f"{field} in body should"
    many = f"must have at most {limit} items"
    sentences = {
        "type": f"Invalid value: {field} in body must be of type {limit}: {_shown(value)}",
        "enum": f"Unsupported value: {_shown(value)}: supported values: "
        + ", ".join(f'"{name}"' for name in names),
        "pattern": f"Invalid value: {_shown(value)}: {body} match '{limit}'",
        "minimum": f"Invalid value: {value}: {body} be greater than or equal to {limit}",
        "maximum": f"Invalid value: {value}: {body} be less than or equal to {limit}",
        "minLength": f"Invalid value: {_shown(value)}: {body} be at least {limit} chars long",
        "maxLength": f"Too long: may not be more than {limit} bytes",
        "minItems": f"Invalid value: {field} in body should have at least {limit} items",
        "maxItems": f"Too many: {_size(value)}: {many}",
        "maxProperties": f"Too many: {_size(value)}: {many}",
    }
    hint = suggestion(str(value), names) if error.validator == "enum" else ""
    if limit == "string" and isinstance(value, int | float):
        hint = " (put it into quotes)"
    return sentences.get(str(error.validator), error.message) + hint


def _list(value: Any) -> list[str]:
    return value if isinstance(value, list) else []


def _shown(value: Any) -> str:
    text = str(value)
    return f'"{text[:77]}…"' if len(text) > 78 else f'"{text}"'


def _size(value: Any) -> int:
    return len(value) if isinstance(value, list | dict) else 0


def _repeated(value: Any, schema: Schema, path: Path) -> Iterator[Mistake]:
    """Find what stands twice in a list that is a set, or a map by one of its fields."""
    kind = schema.get("x-kubernetes-list-type")
    if isinstance(value, list) and kind in ("set", "map"):
        keys = schema.get("x-kubernetes-list-map-keys", ())
        seen: list[Any] = []
        for number, item in enumerate(value):
            key = [item.get(k) for k in keys] if keys and isinstance(item, dict) else item
            if key in seen:
                yield Mistake((*path, number), f"Duplicate value: {key}")
            seen.append(key)
    for name, part, inner in _parts(value, schema):
        yield from _repeated(part, inner, (*path, name))


def _broken_rules(value: Any, schema: Schema, path: Path) -> Iterator[tuple[Mistake, bool]]:
    """Give what rules object to; and, with False, those that could not be tried."""
    for rule in schema.get("x-kubernetes-validations", ()):
        if not _applies(rule["rule"]):
            continue
        try:
            if not cel.evaluate(rule["rule"], {"self": value}):
                yield Mistake(path, rule["message"]), True
        except (RuntimeError, TypeError, ValueError, LookupError) as error:
            yield Mistake(path, f"rule evaluation error: {rule['rule']}: {error}"), False
    for name, part, inner in _parts(value, schema):
        yield from _broken_rules(part, inner, (*path, name))


def _applies(rule: str) -> bool:
    return "oldSelf" not in rule and rule != IN_CLUSTER.rule
