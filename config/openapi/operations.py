"""Each operation of the document: its view's own annotations, and what follows from them by rule."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.plumbing import ResolvedComponent
from rest_framework.permissions import AllowAny

from config.openapi.responses import header_refs, problem_ref
from config.openapi.submissions import form_of
from jobs.api.scopes import scope_of
from jobs.api.serializers import StrictSerializer, TextField

EXAMPLES = Path(__file__).with_name("examples.json")
"""Recorded from a running stack by `python -m tests.e2e.record_examples`, and run again by the tests."""
TAGS = {
    "Jobs": "Submit, poll, cancel, run again, remove.",
    "Batches": "Many jobs at once.",
    "Events": "What happened, from the log that every door reads.",
    "Kinds": "What can be run.",
    "Webhooks": "Where your jobs' news is sent, what signs it, and what came of it.",
    "Credentials": "Tokens, also short-lived ones that only watch.",
}
_TAG_OF_SEGMENT = {
    "batches": "Batches",
    "events": "Events",
    "kinds": "Kinds",
    "webhooks": "Webhooks",
    "deliveries": "Webhooks",
    "callback-secret": "Webhooks",
    "tokens": "Credentials",
    "watch-tokens": "Credentials",
}
_HEADERS_BY_PARAMETER = {
    "If-None-Match": ({"200", "304"}, ("ETag",)),
    "wait": ({"200", "304"}, ("Retry-After",)),
    "Idempotency-Key": ({"200", "202"}, ("Idempotent-Replayed",)),
    "Prefer": ({"200", "202"}, ("Preference-Applied",)),
}
"""Headers that answers carry because a parameter can be given: name → their statuses and headers."""
_JOB_LINKS = ("getJob", "getJobStatus", "listJobEvents", "cancelJob", "retryJob", "rerunJob", "deleteJob")
_WEBHOOK_LINKS = ("getWebhook", "changeWebhook", "getWebhookSecret", "deleteWebhook")
LINKS = {
    "submitJob": ("jobId", "$response.body#/jobId", _JOB_LINKS),
    "rerunJob": ("jobId", "$response.body#/jobId", _JOB_LINKS),
    "submitBatch": ("batchId", "$response.body#/batchId", ("getBatch",)),
    "createWebhook": ("webhookId", "$response.body#/id", _WEBHOOK_LINKS),
    "createToken": ("tokenId", "$response.body#/id", ("deleteToken",)),
    "listDeliveries": ("deliveryId", "$response.body#/items/0/id", ("getDelivery",)),
}
"""Where an answer leads: operation → the parameter to give, where it stands, and the operations that take it."""
NOT_BLANK = r"[^\s\x1c-\x1f\x85]"
"""What a text must have somewhere: it is taken without the blanks round it, as Python has them."""
SPECIAL_PROBLEMS = {409, 410, 412}
"""Those that a view declares; all others follow from the shape of the operation."""
PARAMETERS = {
    "wait": {"minimum": 1, "maximum": 60},
    "limit": {"minimum": 1, "maximum": 200},
    "after": {"minimum": 0, "maximum": 2**31 - 1},
    "Idempotency-Key": {"minLength": 1, "maxLength": 255, "pattern": "^[!-~¡-¬®-ÿ]([ -~¡-¬®-ÿ]*[!-~¡-¬®-ÿ])?$"},
}
"""Limits of parameters, which mean the same wherever they stand."""
RATES = ("RateLimit-Policy", "RateLimit")


class OperationSchema(AutoSchema):
    """Describes one method of one path."""

    def get_operation(self, *args: Any, **kwargs: Any) -> dict[str, Any] | None:
        """Describe it."""
        operation: dict[str, Any] | None = super().get_operation(*args, **kwargs)
        if operation is None:
            return None
        operation["description"] = operation["description"].strip() + self._scope_sentence()
        operation["summary"] = _first_sentence(operation["description"])
        content = operation.get("requestBody", {}).get("content", {})
        if "multipart/form-data" in content:
            content["multipart/form-data"] = form_of(self, content["application/json"]["schema"])
            operation["requestBody"]["required"] = operation["operationId"] == "submitJob"
        parameters = operation.get("parameters", [])
        given = {each["name"] for each in parameters}
        for parameter in parameters:
            parameter["schema"] |= PARAMETERS.get(parameter["name"], {})
        if "Prefer" in given:
            _add_job_to_receipt(operation["responses"]["200"])
        good = {status: each for status, each in operation["responses"].items() if status < "400"}
        for status, answer in good.items():
            answer["description"] = answer["description"] or "As asked."
            if headers := self._headers(operation, status):
                answer["headers"] = header_refs(*headers) | answer.get("headers", {})
            if links := _links(operation["operationId"]):
                answer["links"] = links
        declared = {int(status) for status in operation["responses"] if status >= "400"}
        problems = sorted(self._usual_problems(operation) | (declared & SPECIAL_PROBLEMS))
        operation["responses"] = dict(sorted(good.items())) | {str(status): problem_ref(status) for status in problems}
        _add_examples(operation)
        return operation

    def get_tags(self) -> list[str]:
        """Tag it by what its path begins with."""
        segment = self.path.removeprefix("/api/").split("/")[0]
        is_batch = self.path == "/api/jobs/batch"
        return ["Batches" if is_batch else _TAG_OF_SEGMENT.get(segment, "Jobs")]

    def get_auth(self) -> list[dict[str, list[str]]]:
        """Name the credentials, and the scope that a token needs (OpenAPI 3.1, "Security Requirement Object")."""
        if self._is_open():
            return [{}]
        requirements = []
        for authenticator in self.view.get_authenticators():
            scheme: Any = OpenApiAuthenticationExtension.get_match(authenticator)
            component = ResolvedComponent(  # type: ignore[no-untyped-call]  # untyped in drf-spectacular
                name=scheme.name,
                type=ResolvedComponent.SECURITY_SCHEMA,
                object=scheme.name,  # several classes may read one kind of credential
                schema=scheme.get_security_definition(self),
            )
            self.registry.register_on_missing(component)
            scopes = [scope_of(self.view, self.method).value] if scheme.name == "bearer" else []
            requirements.append({scheme.name: scopes})
        return requirements

    def _is_open(self) -> bool:
        return any(isinstance(each, AllowAny) for each in self.view.get_permissions())

    def _scope_sentence(self) -> str:
        return "" if self._is_open() else f"\n\nA token needs the scope `{scope_of(self.view, self.method).value}`."

    def _usual_problems(self, operation: dict[str, Any]) -> set[int]:
        """Say what can go wrong with any operation of this shape."""
        places = {each["in"] for each in operation.get("parameters", [])}
        problems = {400, 406, 503}
        if not self._is_open():
            problems |= {401, 403, 429}
        if "path" in places:
            problems |= {404}
        if "query" in places or "requestBody" in operation:
            problems |= {413, 422}
        if "requestBody" in operation:
            problems |= {415}
        return problems

    def _headers(self, operation: dict[str, Any], status: str) -> list[str]:
        names = [] if self._is_open() else [*RATES]
        given = {each["name"] for each in operation.get("parameters", [])}
        for parameter, (statuses, headers) in _HEADERS_BY_PARAMETER.items():
            if parameter in given and status in statuses:
                names += headers
        if self.method == "POST" and (
            status == "201" or "Idempotency-Key" in given or operation["operationId"] == "retryJob"
        ):
            names += ["Location"]
        if self.method == "POST" and "Idempotency-Key" in given:
            names += ["Retry-After"]
        return names

    def _map_serializer_field(self, field: Any, direction: Any, bypass_extensions: bool = False) -> Any:
        schema = super()._map_serializer_field(field, direction, bypass_extensions)  # type: ignore[no-untyped-call]
        if direction == "request" and isinstance(field, TextField) and not field.allow_blank:
            schema["pattern"] = NOT_BLANK
        return schema

    def _map_basic_serializer(self, serializer: Any, direction: Any) -> dict[str, Any]:
        schema: dict[str, Any] = super()._map_basic_serializer(serializer, direction)  # type: ignore[no-untyped-call]
        if direction == "request" and isinstance(serializer, StrictSerializer):
            schema["additionalProperties"] = False
        return schema


@cache
def examples() -> dict[str, Any]:
    """Read the recorded examples, by operationId."""
    recorded: dict[str, Any] = json.loads(EXAMPLES.read_text()) if EXAMPLES.exists() else {}
    return recorded


def _add_job_to_receipt(answer: dict[str, Any]) -> None:
    """Say that a held answer is the Job."""
    media_type = answer["content"]["application/json"]
    media_type["schema"] = {"oneOf": [media_type["schema"], {"$ref": "#/components/schemas/SingleJob"}]}
    answer["description"] = "The standing job's receipt, or the Job where `Prefer: wait` has held the answer."


def _links(operation_id: str) -> dict[str, Any]:
    parameter, place, targets = LINKS.get(operation_id, ("", "", ()))
    return {each: {"operationId": each, "parameters": {parameter: place}} for each in targets}


def _add_examples(operation: dict[str, Any]) -> None:
    example = examples().get(operation["operationId"])
    if example is None:
        return
    asked = operation.get("requestBody", {}).get("content", {}).get("application/json")
    if asked and "body" in example["request"]:
        asked["examples"] = {"example": {"value": example["request"]["body"]}}
    given = operation["responses"].get(str(example["response"]["status"]), {}).get("content", {})
    if "application/json" in given and "body" in example["response"]:
        given["application/json"]["examples"] = {"example": {"value": example["response"]["body"]}}


def _first_sentence(text: str) -> str:
    return text.partition("\n")[0].partition(". ")[0].partition(": ")[0].rstrip(".")
