"""`GET /api/docs`: the OpenAPI document as a page for people, made on the server, without a script."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.views.decorators.http import require_safe

from config.openapi.document import document
from config.openapi.operations import TAGS

Schema = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Row:
    """A parameter, or a field of a schema."""

    name: str
    type: SafeString
    is_required: bool
    description: SafeString


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One status of an operation."""

    status: str
    type: SafeString
    description: SafeString
    headers: list[str]


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One method of one path."""

    id: str
    method: str
    path: str
    summary: str
    description: list[SafeString]
    parameters: list[Row]
    bodies: list[tuple[str, SafeString]]
    """Content types and what they hold."""
    example: str
    answers: list[Answer]
    answer_example: str


@require_safe
def docs(request: HttpRequest) -> HttpResponse:
    """Show what can be asked and what comes."""
    return render(request, "api_docs.html", {"tags": _tags(), "schemas": _schemas()})


@cache
def _tags() -> list[tuple[str, str, list[Operation]]]:
    by_tag: dict[str, list[Operation]] = {name: [] for name in TAGS}
    for path, methods in document()["paths"].items():
        for method, operation in methods.items():
            by_tag[operation["tags"][0]].append(_operation(method.upper(), path, operation))
    return [(name, TAGS[name], operations) for name, operations in by_tag.items() if operations]


@cache
def _schemas() -> list[tuple[str, SafeString, list[Row], SafeString]]:
    """List the named schemas: name, description, fields, and the type of what has no fields."""
    return [
        (name, _text(schema.get("description", "")), [*_fields(schema)], _type(schema))
        for name, schema in document()["components"]["schemas"].items()
    ]


def _operation(method: str, path: str, operation: Schema) -> Operation:
    bodies = operation.get("requestBody", {}).get("content", {})
    good = min(operation["responses"])
    return Operation(
        id=operation["operationId"],
        method=method,
        path=path,
        summary=operation["summary"],
        description=[_text(each) for each in operation["description"].split("\n\n")],
        parameters=[_parameter(each) for each in operation.get("parameters", [])],
        bodies=[(media_type, _type(each["schema"])) for media_type, each in bodies.items()],
        example=_example(bodies),
        answers=[_answer(status, each) for status, each in operation["responses"].items()],
        answer_example=_example(operation["responses"][good].get("content", {})),
    )


def _parameter(parameter: Schema) -> Row:
    return Row(
        name=parameter["name"],
        type=format_html("{}, {}", parameter["in"], _type(parameter["schema"])),
        is_required=parameter.get("required", False),
        description=_text(parameter.get("description", "")),
    )


def _answer(status: str, answer: Schema) -> Answer:
    if "$ref" in answer:
        answer = document()["components"]["responses"][_last(answer["$ref"])]
    content = answer.get("content", {})
    return Answer(
        status=status,
        type=format_html_join(", ", "{}", ((_type(each["schema"]),) for each in content.values())),
        description=_text(answer["description"]),
        headers=[*answer.get("headers", {})],
    )


def _fields(schema: Schema) -> Iterator[Row]:
    required = schema.get("required", [])
    for name, field in schema.get("properties", {}).items():
        description = field.get("description", "")
        if "default" in field:
            description += f" Default: `{json.dumps(field['default'])}`."
        yield Row(name=name, type=_type(field), is_required=name in required, description=_text(description.strip()))


def _type(schema: Schema) -> SafeString:
    """Say a schema's type in a few words, with links to named ones."""
    match schema:
        case {"$ref": ref}:
            name = _last(ref)
            return format_html('<a href="#{}">{}</a>', name, name)
        case {"oneOf": choices} | {"anyOf": choices} | {"allOf": choices}:
            return format_html_join(" or ", "{}", ((_type(each),) for each in choices))
        case {"enum": values}:
            return format_html_join(", ", "<code>{}</code>", ((json.dumps(each),) for each in values))
        case {"const": value}:
            return format_html("<code>{}</code>", json.dumps(value))
        case {"items": items, "type": "array"}:
            return format_html("list of {}", _type(items))
    types = schema.get("type", "any JSON")
    name = " or ".join(types) if isinstance(types, list) else types
    format_and_limits = [schema["format"]] if "format" in schema else []
    limits = (
        ("minimum", "from {}"),
        ("maximum", "to {}"),
        ("maxLength", "up to {} characters"),
        ("maxItems", "up to {}"),
    )
    format_and_limits += [words.format(schema[each]) for each, words in limits if each in schema]
    return format_html("{}{}", name, f" ({', '.join(format_and_limits)})" if format_and_limits else "")


def _example(content: dict[str, Schema]) -> str:
    for media_type in content.values():
        for example in media_type.get("examples", {}).values():
            return json.dumps(example["value"], indent=2, ensure_ascii=False)
    return ""


def _text(markdown: str) -> SafeString:
    """Write a description, whose only mark-up is `code` between backticks."""
    parts = enumerate(markdown.split("`"))
    return format_html_join(
        "", "{}", ((format_html("<code>{}</code>", each) if place % 2 else each,) for place, each in parts)
    )


def _last(ref: str) -> str:
    return ref.rpartition("/")[2]
