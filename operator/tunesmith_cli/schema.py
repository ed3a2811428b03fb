"""Checks a FineTuneJob as the API server does: its CRD's schema, defaults and CEL rules.

The sentences are the API server's. Two things differ: files of this machine are allowed, and the
rules on changes have no old object to look at. Pure; called by ``jobfile``.
"""

import re
from collections.abc import Iterator
from copy import deepcopy
from functools import cache
from typing import Any

import cel
import jsonschema

from tunesmith_api import API_VERSION
from tunesmith_api.crd import definitions
from tunesmith_api.finetunejob import FineTuneJob
from tunesmith_api.meta import DECIMAL_PATTERN, IN_CLUSTER
from tunesmith_cli.mistakes import Mistake, Path, dotted, suggestion
from tunesmith_cli.quantities import QUANTITIES

Schema = dict[str, Any]
_NAME: Path = ("metadata", "name")
_SUBDOMAIN = re.compile(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$")
_MOST_KNOWN = 12
_RULES = "x-kubernetes-validations"


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


def local_fields(
    value: Any, schema: Schema | None = None, path: Path = ()
) -> Iterator[tuple[Path, str]]:
    """Give the fields of a job that may be a file of this machine, with their texts.

    They are those that the CRD warns of: a pod has no files of yours.
    """
    schema = job_schema() if schema is None else schema
    if isinstance(value, str) and any(map(_is_on_place, schema.get(_RULES, ()))):
        yield path, value
    for name, part, inner in _parts(value, schema):
        yield from local_fields(part, inner, (*path, name))


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
    name = metadata.get("name") if isinstance(metadata, dict) else None
    if name is None:
        yield Mistake(_NAME, "Required value: name is required")
    elif not isinstance(name, str):
        yield Mistake(_NAME, f"Invalid value: {_shown(name)}: must be text (put it into quotes)")
    elif not _SUBDOMAIN.match(name):
        yield Mistake(
            _NAME,
            f"Invalid value: {_shown(name)}: a lowercase RFC 1123 subdomain must consist of lower"
            " case alphanumeric characters, '-' or '.', and must start and end with an"
            " alphanumeric character (e.g. 'my-job')",
        )


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
            hint = suggestion(str(name), known) or _all_of(known)
            yield Mistake(place, f'unknown field "{dotted(place)}"{hint}')
    for name, part, inner in _parts(value, schema):
        yield from _unknown(part, inner, (*path, name))


def _all_of(known: Schema) -> str:
    more = ", …" if len(known) > _MOST_KNOWN else ""
    return f"; there are {', '.join(list(known)[:_MOST_KNOWN])}{more}"


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
    is_enum = isinstance(error.schema, dict) and "enum" in error.schema
    if error.validator == "type" and is_enum and isinstance(error.instance, bool):
        return  # Its other mistake says which words there are.
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
    return sentences.get(str(error.validator), error.message) + _hint(error)


def _hint(error: jsonschema.ValidationError) -> str:
    value, limit = error.instance, error.validator_value
    if error.validator == "enum":
        # YAML reads on, off, yes and no as true and false.
        words = {True: "Enabled", False: "Disabled"}
        return suggestion(words[value] if isinstance(value, bool) else str(value), _list(limit))
    if error.validator == "type" and limit == "string" and not isinstance(value, dict | list):
        return " (put it into quotes)"
    if error.validator == "type" and limit in ("integer", "number") and _is_number(value):
        return " (take the quotes off)"
    return ' (a number such as "0.5" or "2e-4")' if limit == DECIMAL_PATTERN else ""


def _is_number(value: Any) -> bool:
    return isinstance(value, str) and value.strip().isdecimal()


def _list(value: Any) -> list[str]:
    return value if isinstance(value, list) else []


def _shown(value: Any) -> str:
    text = str(value).lower() if isinstance(value, bool) else str(value)
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
    for rule in schema.get(_RULES, ()):
        if "oldSelf" in rule["rule"] or _is_on_place(rule):
            continue
        try:
            if not cel.evaluate(rule["rule"], cel.Context({"self": value}, QUANTITIES)):
                yield Mistake(path, rule["message"]), True
        except (RuntimeError, TypeError, ValueError, LookupError) as error:
            yield Mistake(path, f"rule evaluation error: {rule['rule']}: {error}"), False
    for name, part, inner in _parts(value, schema):
        yield from _broken_rules(part, inner, (*path, name))


def _is_on_place(rule: Schema) -> bool:
    return bool(rule["rule"] == IN_CLUSTER.rule)
