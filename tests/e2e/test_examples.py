"""The examples of the OpenAPI document, and of docs/api.md, are what a running Kabar takes and answers."""

from __future__ import annotations

import json
from collections import Counter
from functools import cache
from typing import Any
from urllib.parse import urlsplit

import pytest
from jsonschema import Draft202012Validator, FormatChecker  # type: ignore[import-untyped]

from tests.e2e.calls import CALLS, made
from tests.e2e.record_examples import BEGINNING, EXAMPLES, PAGE, as_page
from tests.e2e.stack import Client, Stack

REMEDY = "run `python -m tests.e2e.record_examples`"


@pytest.fixture(scope="module")
def document(stack: Stack) -> dict[str, Any]:
    response = stack.client().get("/api/schema")
    given: dict[str, Any] = response.json()
    return given


@cache
def recorded() -> dict[str, Any]:
    examples: dict[str, Any] = json.loads(EXAMPLES.read_text())
    return examples


def operations(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {each["operationId"]: each for methods in document["paths"].values() for each in methods.values()}


def check(value: Any, schema: dict[str, Any], document: dict[str, Any]) -> None:
    whole = {**schema, "components": document["components"]}
    Draft202012Validator(whole, format_checker=FormatChecker()).validate(value)


def resolved(part: dict[str, Any], document: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in part:
        return part
    _, *names = part["$ref"].split("/")
    found: Any = document
    for name in names:
        found = found[name]
    return dict(found)


def shape(value: Any) -> Any:
    """Reduce a value to its names: what an answer must have in common with the one that was written down."""
    match value:
        case {"jobId": _, "statusUrl": _}:
            return sorted(value)  # what is null of a Job depends on the moment
        case dict():
            return {name: shape(each) for name, each in value.items()}
        case list():
            return [shape(value[0])] if value else []
    return None


def test_each_operation_is_called_and_written_down(document: dict[str, Any]) -> None:
    assert {call.operation for call in CALLS} == set(operations(document)), "add the new one to tests/e2e/calls.py"
    assert {call.name for call in CALLS} == set(recorded()), REMEDY
    assert max(Counter(call.name for call in CALLS).values()) == 1


def test_the_page_shows_what_is_written_down() -> None:
    assert PAGE.read_text().partition(BEGINNING)[2].strip() == as_page(recorded()).strip(), REMEDY


def test_each_call_is_answered_as_documented_and_as_written_down(stack: Stack, document: dict[str, Any]) -> None:
    documented = operations(document)
    for call, _, body, response in made(stack.client("ayu")):
        operation, written = documented[call.operation], recorded()[call.name]
        assert response.status_code == call.status == written["response"]["status"], (call.name, response.text)
        if body is not None and not call.is_form:
            check(body, operation["requestBody"]["content"]["application/json"]["schema"], document)
        answer = resolved(operation["responses"][str(call.status)], document)
        if response.content:
            check(response.json(), answer["content"]["application/json"]["schema"], document)
            assert shape(response.json()) == shape(written["response"]["body"]), f"{call.name}: {REMEDY}"
        else:
            assert "content" not in answer
        for name, header in answer.get("headers", {}).items():
            if resolved(header, document)["required"]:
                assert name in response.headers, (call.name, name)
        missing = {"ETag", "Location", "Retry-After"} & set(response.headers) - set(answer.get("headers", {}))
        assert not missing, f"{call.name} has headers that its document lacks"


def test_the_urls_of_the_document_are_those_of_the_server(
    stack: Stack, client: Client, document: dict[str, Any]
) -> None:
    (server,) = document["servers"]
    assert server["url"] == stack.url
    assert urlsplit(client.get("/api/schema").url).path == "/api/schema"
