"""Describes a kind's params as JSON Schema (draft 2020-12), from its DRF serializer."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers
from rest_framework.fields import empty

from jobs.kinds import Kind

_TYPES: tuple[tuple[type[serializers.Field[Any, Any, Any, Any]], dict[str, Any]], ...] = (
    (serializers.BooleanField, {"type": "boolean"}),
    (serializers.IntegerField, {"type": "integer"}),
    (serializers.FloatField, {"type": "number"}),
    (serializers.DecimalField, {"type": "string", "format": "decimal"}),
    (serializers.DateTimeField, {"type": "string", "format": "date-time"}),
    (serializers.DateField, {"type": "string", "format": "date"}),
    (serializers.TimeField, {"type": "string", "format": "time"}),
    (serializers.DurationField, {"type": "string", "format": "duration"}),
    (serializers.UUIDField, {"type": "string", "format": "uuid"}),
    (serializers.EmailField, {"type": "string", "format": "email"}),
    (serializers.URLField, {"type": "string", "format": "uri"}),
    (serializers.FileField, {"type": "string", "format": "binary"}),
    (serializers.CharField, {"type": "string"}),
    (serializers.DictField, {"type": "object"}),
)
_LIMITS = {
    "min_value": "minimum",
    "max_value": "maximum",
    "min_length": "minLength",
    "max_length": "maxLength",
}


def kind_as_dict(kind: Kind) -> dict[str, Any]:
    """Show a kind as `GET /api/kinds` lists it."""
    return {
        "kind": kind.name,
        "title": kind.title,
        "description": kind.description,
        "paramsSchema": params_schema(kind.params()),
        "timeout": kind.timeout_seconds,
        "maxAttempts": kind.max_attempts,
    }


def params_schema(serializer: serializers.Serializer[Any]) -> dict[str, Any]:
    """Describe a serializer's fields; files are strings of the format `binary`."""
    fields = {name: field for name, field in serializer.fields.items() if not field.read_only}
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {name: _field(field) for name, field in fields.items()},
        "additionalProperties": False,
    }
    if required := [name for name, field in fields.items() if field.required]:
        schema["required"] = required
    return schema


def _field(field: serializers.Field[Any, Any, Any, Any]) -> dict[str, Any]:
    schema = _shape(field)
    if field.allow_null and "type" in schema:
        schema["type"] = [schema["type"], "null"]
        if "enum" in schema:
            schema["enum"] = [*schema["enum"], None]
    if field.label:
        schema["title"] = str(field.label)
    if field.help_text:
        schema["description"] = str(field.help_text)
    if field.default is not empty and not callable(field.default) and field.default is not None:
        schema["default"] = field.default
    return schema


def _shape(field: serializers.Field[Any, Any, Any, Any]) -> dict[str, Any]:
    match field:
        case serializers.ChoiceField():
            return {"type": "string", "enum": list(field.choices)}
        case serializers.ListSerializer() | serializers.ListField():
            limits = {"minItems": getattr(field, "min_length", None), "maxItems": getattr(field, "max_length", None)}
            items = {"items": _field(field.child)} if field.child else {}
            return {"type": "array", **items, **{name: value for name, value in limits.items() if value is not None}}
        case serializers.Serializer():
            return params_schema(field)
    for known, schema in _TYPES:
        if isinstance(field, known):
            limits = {
                name: getattr(field, ours) for ours, name in _LIMITS.items() if getattr(field, ours, None) is not None
            }
            return schema | limits
    return {}
