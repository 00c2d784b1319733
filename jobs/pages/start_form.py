"""The form that starts a job: fields from the kind's `paramsSchema`, and the submission that they make.

A field's name is its place in the submission, dotted: `params.file`, `tags`. So a fault's pointer names its field.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from django.conf import settings
from django.core.files.uploadedfile import UploadedFile
from django.utils.translation import gettext as _
from rest_framework import serializers

from jobs.api.params_schema import params_schema
from jobs.kinds import Kind
from jobs.pages.wording import say_size

PARAMS = "params."
FILE_NAME = "filename."
"""Before a file parameter's name, where only the file's name is sent, to be shown in the curl."""
LONGEST_LINE = 200
"""A text that may be longer gets more than one line."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One of the values of a field that has few."""

    value: str
    label: str


@dataclass(frozen=True, kw_only=True)
class Field:
    """One field, with what stands in it and what is wrong with that."""

    name: str
    label: str
    control: str
    """text, lines, number, check, choice, file or moment: which partial draws it."""
    hint: str = ""
    is_required: bool = False
    value: str = ""
    choices: Sequence[Choice] = ()
    errors: Sequence[str] = ()
    schema: Mapping[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return "f-" + self.name.replace(".", "-")

    @property
    def input_mode(self) -> str:
        return "numeric" if self.schema.get("type") == "integer" else "decimal"

    @property
    def is_checked(self) -> bool:
        return self.value == "true"

    @property
    def described_by(self) -> str:
        return " ".join(
            f"{self.id}-{part}"
            for part, is_there in (("h", self.hint or self.control == "file"), ("e", self.errors))
            if is_there
        )


@dataclass(frozen=True, kw_only=True)
class StartForm:
    """The form of one kind."""

    kind: Kind
    params: Sequence[Field]
    envelope: Sequence[Field]
    idempotency_key: str
    faults: Sequence[str] = ()
    """What is wrong and belongs to no field."""

    @property
    def fields(self) -> list[Field]:
        return [*self.params, *self.envelope]

    @property
    def faulty(self) -> list[Field]:
        return [each for each in self.fields if each.errors]

    @property
    def fault_count(self) -> int:
        return len(self.faulty) + len(self.faults)

    @property
    def is_envelope_open(self) -> bool:
        return any(each.errors or each.value for each in self.envelope)

    @property
    def most_upload(self) -> str:
        return say_size(settings.MAX_UPLOAD_BYTES)

    def submission(self) -> dict[str, Any]:
        """Write what stands in the fields as the contract's JSON; empty fields are left out.

        What can't be read as the type that its field asks for goes as text, so that the same check as the API's says
        what is wrong with it.
        """
        body: dict[str, Any] = {"kind": self.kind.name}
        if params := _values(self.params):
            body["params"] = {name.removeprefix(PARAMS): value for name, value in params.items()}
        return body | _values(self.envelope)

    def curl(self, file_names: Mapping[str, str]) -> str:
        """Write the same request as a command.

        Args:
            file_names: chosen files by parameter; a made-up name stands for the others.
        """
        lines = [
            f"curl -X POST {settings.PUBLIC_URL}/api/jobs",
            '-H "Authorization: Bearer $KABAR_TOKEN"',
            f'-H "Idempotency-Key: {self.idempotency_key}"',
        ]
        body = json.dumps(self.submission(), ensure_ascii=False)
        if files := self.kind.file_params:
            lines.append(f"-F {shlex.quote(f'job={body};type=application/json')}")
            lines += [f"-F {name}=@{shlex.quote(file_names.get(name) or f'{name}.bin')}" for name in files]
        else:
            lines += ['-H "Content-Type: application/json"', f"-d {shlex.quote(body)}"]
        return " \\\n  ".join(lines)

    def with_faults(self, faults: Iterable[Mapping[str, str]], detail: str) -> StartForm:
        """Put each fault on the field that its pointer (RFC 6901) names; what names none stays with the form."""
        by_name: dict[str, list[str]] = {each.name: [] for each in self.fields}
        others = []
        for fault in faults:
            parts = fault["pointer"].split("/")[1:]
            names = [".".join(parts[:2]), *parts[:1]]
            name = next((each for each in names if each in by_name), None)
            if name is None:
                others.append(fault["detail"])
            elif fault["detail"] not in by_name[name]:
                by_name[name].append(fault["detail"])
        if not others and not any(by_name.values()):
            others.append(detail)
        return replace(
            self,
            params=[replace(each, errors=by_name[each.name]) for each in self.params],
            envelope=[replace(each, errors=by_name[each.name]) for each in self.envelope],
            faults=others,
        )


def form_of(kind: Kind, values: Mapping[str, str], *, teams: Sequence[str], idempotency_key: str) -> StartForm:
    """Make the form of a kind.

    Args:
        kind: whose params.
        values: what stands in the fields, by name; defaults stand where a name is missing.
        teams: names of the teams that the reader may share with.
        idempotency_key: travels with the form, so that sending it twice makes one job.
    """
    serializer = kind.params()
    schema = params_schema(serializer)
    required = schema.get("required", [])
    params = [
        _param(name, each, serializer.fields[name], is_required=name in required, values=values)
        for name, each in schema["properties"].items()
    ]
    return StartForm(kind=kind, params=params, envelope=_envelope(kind, values, teams), idempotency_key=idempotency_key)


def values_of_params(params: Mapping[str, Any]) -> dict[str, str]:
    """Write a job's params as a form holds them, to start one like it."""
    return {
        PARAMS + name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for name, value in params.items()
        if value is not None
    }


def chosen_files(form: StartForm, files: Mapping[str, UploadedFile[Any]]) -> dict[str, UploadedFile[Any]]:
    """Take the files that came with the form, by parameter."""
    names = {each.name for each in form.params if each.control == "file"}
    return {name.removeprefix(PARAMS): file for name, file in files.items() if name in names}


def _param(
    name: str,
    schema: Mapping[str, Any],
    of: serializers.Field[Any, Any, Any, Any],
    *,
    is_required: bool,
    values: Mapping[str, str],
) -> Field:
    control = _control(schema)
    choices: Sequence[Choice] = ()
    if isinstance(of, serializers.ChoiceField):
        choices = [Choice(value=str(value), label=str(label)) for value, label in of.choices.items()]
        if not is_required and "default" not in schema:
            choices = [Choice(value="", label=_("Find out") if of.allow_null else _("As it comes")), *choices]
    default = schema.get("default")
    standing = "" if default is None else default if isinstance(default, str) else json.dumps(default)
    return Field(
        name=PARAMS + name,
        label=str(schema.get("title") or name.replace("_", " ").capitalize()),
        control=control,
        hint=_hint(schema, control),
        is_required=is_required and control != "check",
        # A box that isn't ticked is no part of a form that was sent.
        value=values.get(PARAMS + name, "" if values and control == "check" else standing),
        choices=choices,
        schema=schema,
    )


def _type_of(schema: Mapping[str, Any]) -> str:
    kind = schema.get("type", "object")
    return str(kind[0] if isinstance(kind, list) else kind)


def _control(schema: Mapping[str, Any]) -> str:
    if "enum" in schema:
        return "choice"
    match _type_of(schema), schema.get("format"):
        case "boolean", _:
            return "check"
        case (("integer" | "number"), _):
            return "number"
        case "string", "binary":
            return "file"
        case "string", "date-time":
            return "moment"
        case "string", _:
            return "lines" if schema.get("maxLength", 0) > LONGEST_LINE else "text"
    return "lines"


def _hint(schema: Mapping[str, Any], control: str) -> str:
    hint = str(schema.get("description", ""))
    if _type_of(schema) in ("object", "array") and control == "lines":
        return f"{hint} {_('Written as JSON.')}".strip()
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None:
        return f"{hint} {_('From %(low)s to %(high)s.') % {'low': low, 'high': high}}".strip()
    return hint


def _envelope(kind: Kind, values: Mapping[str, str], teams: Sequence[str]) -> list[Field]:
    fields = [
        Field(name="runAt", label=_("Start at"), control="moment", hint=_("In UTC; empty: now")),
        Field(name="tags", label=_("Tags"), control="text", hint=_("Parted by commas")),
        Field(
            name="priority",
            label=_("Priority"),
            control="number",
            hint=_("From -100 to 100; larger is sooner"),
            schema={"type": "integer"},
        ),
        Field(
            name="maxAttempts",
            label=_("Tries at most"),
            control="number",
            hint=_("Empty: %(number)s") % {"number": kind.max_attempts},
            schema={"type": "integer"},
        ),
        Field(
            name="callbackUrl",
            label=_("Call this address at the end"),
            control="text",
            hint=_("A signed POST, tried again for days; https://…"),
        ),
    ]
    if teams:
        choices = [Choice(value="", label=_("Nobody")), *(Choice(value=each, label=each) for each in teams)]
        fields.insert(4, Field(name="team", label=_("Share with team"), control="choice", choices=choices))
    return [replace(each, value=values.get(each.name, "")) for each in fields]


def _values(fields: Iterable[Field]) -> dict[str, Any]:
    return {
        each.name: _value(each)
        for each in fields
        if each.control == "check" or (each.value != "" and each.control != "file")
    }


def _value(each: Field) -> Any:
    """Read a field's text as the type that its schema names; text that can't be is left as it is."""
    if each.name == "tags":
        return [tag.strip() for tag in each.value.split(",") if tag.strip()]
    match each.control:
        case "check":
            return each.is_checked
        case "moment":
            return _moment(each.value)
        case "number" | "lines" if each.control == "number" or _type_of(each.schema) in ("object", "array"):
            try:
                return json.loads(each.value, parse_constant=str)
            except (ValueError, RecursionError):
                return each.value
    return each.value


def _moment(text: str) -> str:
    """Read what a browser's field for a date and time says as UTC."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return text
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).isoformat()
