"""Turns the contract's types into CustomResourceDefinitions.

pydantic's JSON schema is not a legal structural schema ($ref, anyOf null, const, exclusive
bounds, additionalProperties beside properties). The converter knows each keyword by name and
raises on any other, and on any string, list or map without a bound: silence is how invalid or
unbounded CRDs ship. Called by ``make generate`` and by tests; pure.
"""

from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any

from pydantic import BaseModel

from tunesmith_api import GROUP, VERSION
from tunesmith_api.finetunejob import FineTuneJob
from tunesmith_api.modeldeployment import ModelDeployment
from tunesmith_api.modelversion import ModelVersion

Schema = dict[str, Any]
Kind = type[FineTuneJob] | type[ModelVersion] | type[ModelDeployment]


class UnknownKeywordError(ValueError):
    """The schema says something that this converter was never taught to say in a CRD."""


_COPIED = {
    "type",
    "description",
    "default",
    "enum",
    "pattern",
    "minLength",
    "maxLength",
    "minimum",
    "maximum",
    "minItems",
    "maxItems",
    "minProperties",
    "maxProperties",
    "format",
    "required",
    "x-kubernetes-validations",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
}
# title is noise ("Uri"); propertyNames cannot be said in a CRD, the map's size is bounded instead.
_DROPPED = {"title", "propertyNames", "$defs"}


def _any_of(options: list[Schema], defs: Mapping[str, Schema], where: str) -> Schema:
    """``X | None`` is an optional X: absent means not set, and null is not a legal type."""
    real = [o for o in options if o != {"type": "null"}]
    if len(real) != 1 or len(real) == len(options):
        raise UnknownKeywordError(f"{where}: only 'X | None' can be said in a CRD, not {options}")
    return _convert(real[0], defs, where)


def _const(value: Any, _defs: Mapping[str, Schema], _where: str) -> Schema:
    return {"type": "string", "enum": [value]}


def _ref(ref: str, defs: Mapping[str, Schema], where: str) -> Schema:
    return _convert(defs[ref.removeprefix("#/$defs/")], defs, where)


def _items(items: Schema, defs: Mapping[str, Schema], where: str) -> Schema:
    return {"items": _convert(items, defs, f"{where}[]")}


def _properties(properties: Schema, defs: Mapping[str, Schema], where: str) -> Schema:
    return {"properties": {k: _convert(v, defs, f"{where}.{k}") for k, v in properties.items()}}


def _additional(value: Any, defs: Mapping[str, Schema], where: str) -> Schema:
    # False stands beside properties, where the API server prunes or refuses by itself.
    if value is False:
        return {}
    return {"additionalProperties": _convert(value, defs, f"{where}.*")}


_CONVERTED: dict[str, Callable[[Any, Mapping[str, Schema], str], Schema]] = {
    "anyOf": _any_of,
    "const": _const,
    "$ref": _ref,
    "items": _items,
    "properties": _properties,
    "additionalProperties": _additional,
}


def _check_bounds(schema: Schema, where: str) -> None:
    kind = schema.get("type")
    bounded = (
        (kind != "string" or schema.keys() & {"maxLength", "enum", "format"})
        and (kind != "array" or "maxItems" in schema)
        and ("additionalProperties" not in schema or "maxProperties" in schema)
    )
    if not bounded:
        raise UnknownKeywordError(f"{where}: a {kind} without an upper bound")


def _convert(schema: Schema, defs: Mapping[str, Schema], where: str) -> Schema:
    """Convert one schema and all below it.

    Raises:
        UnknownKeywordError: for anything that has no place in a structural schema.
    """
    # What stands beside a $ref or anyOf (description, default) is said of this field and wins.
    deep: Schema = {}
    flat: Schema = {}
    for keyword, value in schema.items():
        if keyword in _COPIED:
            flat[keyword] = value
        elif keyword in _CONVERTED:
            deep |= _CONVERTED[keyword](value, defs, where)
        elif keyword not in _DROPPED:
            raise UnknownKeywordError(f"{where}: {keyword}")
    rules = deep.pop("x-kubernetes-validations", []) + flat.pop("x-kubernetes-validations", [])
    result: Schema = deep | flat
    if "description" in result:
        result["description"] = " ".join(result["description"].split())
    if result.get("default", "") is None:
        del result["default"]
    if rules:
        result["x-kubernetes-validations"] = rules
    if result.get("default") == {}:
        result["default"] = _nested_defaults(result)
    _check_bounds(result, where)
    return result


def _nested_defaults(schema: Schema) -> Schema:
    """Spell an object's default out: the API server tries its rules on it as it stands."""
    properties = schema.get("properties", {})
    return {name: deepcopy(p["default"]) for name, p in properties.items() if "default" in p}


def structural_schema(model: type[BaseModel]) -> Schema:
    """Give the structural schema of ``model``.

    Raises:
        UnknownKeywordError: where the model says something a CRD cannot.
    """
    schema = model.model_json_schema(by_alias=True)
    return _convert(schema, schema.get("$defs", {}), model.__name__)


def _column(name: str, path: str, kind: str = "string", **more: Any) -> Schema:
    return {"name": name, "type": kind, "jsonPath": path, **more}


_AGE = _column("Age", ".metadata.creationTimestamp", "date")

_JOB_COLUMNS = [
    _column("Stage", ".status.stage"),
    _column("Progress", ".status.progress.percent", "integer", description="percent of the steps"),
    _column("ETA", ".status.progress.eta"),
    _column("Loss", '.status.metrics[?(@.name=="loss")].value'),
    _column("Verdict", ".status.evaluation.verdict"),
    _column("Version", ".status.modelVersionRef.name"),
    _AGE,
    _column("Message", '.status.conditions[?(@.type=="Failed")].message', priority=1),
]

_VERSION_COLUMNS = [
    _column("Model", ".spec.model"),
    _column("Version", ".spec.version"),
    _column("Loss", '.spec.metrics[?(@.name=="heldout/loss")].value'),
    _column("Base-Loss", '.spec.metrics[?(@.name=="heldout/loss")].baseValue'),
    _column("In-Use", '.status.conditions[?(@.type=="InUse")].status'),
    _column("Job", ".spec.lineage.job"),
    _AGE,
]

_DEPLOYMENT_COLUMNS = [
    _column("Stable", ".status.stable.revision", "integer"),
    _column("Version", ".status.stable.version"),
    _column("Canary", ".status.canary.revision", "integer"),
    _column("Weight", ".status.canary.weight", "integer", description="percent to the canary"),
    _column("Phase", ".status.phase"),
    _column("Ready", '.status.conditions[?(@.type=="Ready")].status'),
    _AGE,
    _column("Message", '.status.conditions[?(@.type=="Progressing")].message', priority=1),
]

_SCALE = {
    "specReplicasPath": ".spec.replicas",
    "statusReplicasPath": ".status.replicas",
    "labelSelectorPath": ".status.selector",
}

# Jobs, pods and Services get longer names, and all of them are DNS labels of at most 63 characters;
# a Service's name begins with a letter.
_NAME_RULE = {
    "rule": "size(self.metadata.name) <= 45"
    " && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
    "message": "metadata.name must have at most 45 characters, begin with a letter and have no"
    " dots: pods and Services get longer names from it",
}

# A ModelVersion that could not be made would show only when training is over.
_VERSION_NAME_RULE = {
    "rule": "size(self.spec.output.modelVersion.version) == 0"
    " || (size(self.spec.output.modelVersion.model) > 0"
    " ? size(self.spec.output.modelVersion.model) : size(self.metadata.name))"
    " + 2 + size(self.spec.output.modelVersion.version) <= 63",
    "message": "spec.output.modelVersion: the ModelVersion's name, MODEL-vVERSION, must have at"
    " most 63 characters: choose a shorter model or version",
}


def _definition(
    model: Kind,
    short: str,
    columns: list[Schema],
    rules: list[Schema],
    scale: Schema | None = None,
) -> Schema:
    schema = structural_schema_of_parts(model)
    if rules:
        schema["x-kubernetes-validations"] = rules
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{model.PLURAL}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": model.KIND,
                "listKind": f"{model.KIND}List",
                "plural": model.PLURAL,
                "singular": model.KIND.lower(),
                "shortNames": [short],
                "categories": ["all", "tunesmith"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}} | ({"scale": scale} if scale else {}),
                    "additionalPrinterColumns": columns,
                    "schema": {"openAPIV3Schema": schema},
                }
            ],
        },
    }


def _model_of(annotation: object) -> type[BaseModel]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    raise UnknownKeywordError(f"{annotation} is not a model")


def structural_schema_of_parts(model: Kind) -> Schema:
    """Give the schema of a whole object; metadata is the API server's own business."""
    fields = model.model_fields
    spec, status = (_model_of(fields[name].annotation) for name in ("spec", "status"))
    text = "APIVersion and kind identify the type, as in every Kubernetes object."
    named = {"type": "string", "description": text, "maxLength": 253}
    return {
        "type": "object",
        "description": " ".join((model.__doc__ or "").split()),
        "required": ["spec"],
        "properties": {
            "apiVersion": named,
            "kind": named,
            "metadata": {"type": "object"},
            "spec": structural_schema(spec),
            "status": structural_schema(status),
        },
    }


def definitions() -> dict[str, Schema]:
    """Give every CRD by the name of its file."""
    return {
        FineTuneJob.PLURAL: _definition(
            FineTuneJob, "ftj", _JOB_COLUMNS, [_NAME_RULE, _VERSION_NAME_RULE]
        ),
        ModelVersion.PLURAL: _definition(ModelVersion, "mv", _VERSION_COLUMNS, []),
        ModelDeployment.PLURAL: _definition(
            ModelDeployment, "mdep", _DEPLOYMENT_COLUMNS, [_NAME_RULE], _SCALE
        ),
    }
