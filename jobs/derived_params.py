"""Makes a kind's params of a function's signature: a field for each parameter, by its annotation and its default."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from functools import partial
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin
from uuid import UUID

from django.core.exceptions import ImproperlyConfigured
from rest_framework import serializers

from jobs.representation import as_json

Field = serializers.Field[Any, Any, Any, Any]

PLAIN: dict[Any, Callable[..., Field]] = {
    # Text is passed on as it came: no blanks are cut off, and it may be empty.
    str: partial(serializers.CharField, allow_blank=True, trim_whitespace=False),
    int: serializers.IntegerField,
    float: serializers.FloatField,
    bool: serializers.BooleanField,
    Decimal: partial(serializers.DecimalField, max_digits=None, decimal_places=None),
    datetime: serializers.DateTimeField,
    date: serializers.DateField,
    time: serializers.TimeField,
    timedelta: serializers.DurationField,
    UUID: serializers.UUIDField,
    list: serializers.ListField,
    dict: serializers.DictField,
    Any: partial(serializers.JSONField, allow_null=True),
}
KNOWN = (
    "str, int, float, bool, Decimal, datetime, date, time, timedelta, UUID, list, dict, Literal of texts, Any, or None"
)


def params_of(name: str, function: Callable[..., Any]) -> type[serializers.Serializer[Any]]:
    """Make the serializer of a function's parameters.

    Args:
        name: the kind's, for the serializer's name and for messages.
        function: what is to be called, each parameter by its name.

    Raises:
        ImproperlyConfigured: a parameter says too little, or what no field can be made of.
    """
    try:
        signature = inspect.signature(function, eval_str=True)
    except Exception as error:  # whatever stands in an annotation is evaluated
        raise ImproperlyConfigured(f"The kind {name!r}: its annotations can't be read: {error}.") from error
    fields = {each.name: _field_of(name, each) for each in signature.parameters.values()}
    class_name = "".join(word.capitalize() for word in name.replace("_", ".").split(".")) + "Params"
    return type(class_name, (serializers.Serializer,), fields)


def check_fit(name: str, function: Callable[..., Any], params: type[serializers.Serializer[Any]]) -> None:
    """See that a function can be called with all of a serializer's fields by name.

    Raises:
        ImproperlyConfigured: it has no such parameters, or more that must be given.
    """
    fields = params().fields
    try:
        inspect.signature(function).bind(**dict.fromkeys(fields))
    except TypeError as error:
        raise ImproperlyConfigured(
            f"The kind {name!r}: its function can't be called with {', '.join(fields) or 'nothing'}: {error}."
        ) from error


def _field_of(kind_name: str, parameter: inspect.Parameter) -> Field:
    if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
        raise _underivable(kind_name, parameter, "can't be given by its name alone")
    if parameter.annotation is parameter.empty:
        raise _underivable(kind_name, parameter, "has no annotation")
    options: dict[str, Any] = {}
    if parameter.default is not parameter.empty:
        options = {"required": False, "default": parameter.default}
        try:
            as_json(parameter.default)
        except (TypeError, ValueError) as error:
            raise _underivable(kind_name, parameter, "has a default that isn't JSON") from error
    if parameter.default is None:  # `region: str = None`, as many write it
        options["allow_null"] = True
    field = _field(parameter.annotation, **options)
    if field is None:
        raise _underivable(kind_name, parameter, f"is annotated with {parameter.annotation!r}")
    return field


def _field(annotation: Any, **options: Any) -> Field | None:
    """Make the field of an annotation; None where none is known."""
    if isinstance(annotation, type) or annotation is Any:
        maker = PLAIN.get(annotation)
        if maker:
            return maker(**options)
    origin, inner = get_origin(annotation), get_args(annotation)
    others = [each for each in inner if each not in (None, NoneType)]
    may_be_null = {"allow_null": True} if len(others) < len(inner) else {}
    if origin is Literal and others and all(isinstance(each, str) for each in others):
        return serializers.ChoiceField(others, **options | may_be_null)
    if origin in (Union, UnionType) and len(others) == 1:
        return _field(others[0], **options | may_be_null)
    if origin in (list, Sequence) and (child := _field(inner[0])):
        return serializers.ListField(child=child, **options)
    if origin in (dict, Mapping) and inner[0] is str and (child := _field(inner[1])):
        return serializers.DictField(child=child, **options)
    return None


def _underivable(kind_name: str, parameter: inspect.Parameter, why: str) -> ImproperlyConfigured:
    return ImproperlyConfigured(
        f"The kind {kind_name!r}: the parameter {parameter.name!r} {why}. Annotate it with {KNOWN};"
        " or give the kind a serializer by params=…."
    )
