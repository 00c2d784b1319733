"""Submissions in the document: one schema for each kind, told apart by `kind`, with the kind's params in it."""

from __future__ import annotations

from typing import Any

from drf_spectacular.extensions import OpenApiSerializerExtension
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.plumbing import ResolvedComponent

from jobs.api.params_schema import params_schema
from jobs.api.serializers import SubmissionSerializer
from jobs.kinds import Kind, all_kinds

Schema = dict[str, Any]


class SubmissionByKind(OpenApiSerializerExtension):  # type: ignore[no-untyped-call]  # untyped in drf-spectacular
    """A submission as JSON: of any kind that needs no file."""

    target_class = "jobs.api.serializers.SubmissionSerializer"

    def map_serializer(self, auto_schema: AutoSchema, direction: Any) -> Schema:
        """Describe it."""
        kinds = [kind for kind in all_kinds() if not _needs_file(kind)]
        return _one_of(auto_schema, kinds)


def form_of(auto_schema: AutoSchema, job: Schema) -> Schema:
    """Describe a submission as a form: a part `job`, and a part for each file.

    The parts of all kinds stand side by side, because few generators of clients understand a choice of forms.

    Args:
        auto_schema: of the operation.
        job: what the operation takes as JSON alone; a new job with files is of one of the kinds that take some.
    """
    kinds = [kind for kind in all_kinds() if kind.file_params]
    files: dict[str, list[str]] = {}
    for kind in kinds:
        for name in kind.file_params:
            files.setdefault(name, []).append(kind.name)
    required = ["job"]
    if is_new := job["$ref"].endswith("/SubmissionRequest"):
        job = _register(auto_schema, "FormSubmission", _one_of(auto_schema, kinds))
        required += [name for name in files if all(_needs(kind, name) for kind in kinds)]
    parts = {
        name: {"type": "string", "format": "binary", "description": f"For {', '.join(f'`{each}`' for each in names)}."}
        for name, names in files.items()
    }
    form = {
        "type": "object",
        "properties": {"job": job, **parts},
        "required": required,
        "additionalProperties": False,
        "description": "The submission as JSON, and a part for each file that its kind takes.",
    }
    return {
        "schema": _register(auto_schema, "SubmissionForm" if is_new else "RerunForm", form),
        "encoding": {"job": {"contentType": "application/json"}},
    }


def without_choices_of_one(result: Schema, **_: Any) -> Schema:
    """Put a kind's own schema where there is no other to choose; a postprocessing hook of drf-spectacular.

    A generated client would otherwise have two classes for one thing, and take one of them only.
    """
    schemas = result["components"]["schemas"]
    for name in ("SubmissionRequest", "FormSubmission"):
        if set(schemas.get(name, ())) == {"$ref"}:
            _point_elsewhere(result, f"#/components/schemas/{name}", schemas.pop(name)["$ref"])
    return result


def component_name(kind: Kind, suffix: str) -> str:
    """Name a kind's component: `csv.report` → `CsvReportParams`."""
    return "".join(word.capitalize() for word in kind.name.split(".")) + suffix


def _one_of(auto_schema: AutoSchema, kinds: list[Kind]) -> Schema:
    refs = {kind.name: _submission_of(auto_schema, kind) for kind in kinds}
    if len(refs) == 1:
        return next(iter(refs.values()))
    mapping = {name: ref["$ref"] for name, ref in refs.items()}
    return {"oneOf": [*refs.values()], "discriminator": {"propertyName": "kind", "mapping": mapping}}


def _submission_of(auto_schema: AutoSchema, kind: Kind) -> Schema:
    schema: Schema = auto_schema._map_serializer(  # type: ignore[no-untyped-call]  # untyped in drf-spectacular
        SubmissionSerializer(), "request", bypass_extensions=True
    )
    params = params_schema(kind.params())
    for name in kind.file_params:
        params["properties"].pop(name)
    params["required"] = [name for name in params.get("required", []) if name not in kind.file_params]
    required = ["kind", "params"] if params["required"] else ["kind"]
    if not params["required"]:
        del params["required"]
    params["title"], params["description"] = component_name(kind, "Params"), f"What `{kind.name}` takes."
    properties = {
        **schema["properties"],
        "kind": {"type": "string", "const": kind.name},
        "params": _register(auto_schema, component_name(kind, "Params"), params),
    }
    whole = {
        **schema,
        "description": f"{kind.title}. {kind.description}".strip(),
        "properties": properties,
        "required": required,
    }
    return _register(auto_schema, component_name(kind, "Submission"), whole)


def _point_elsewhere(part: Any, old: str, new: str) -> None:
    match part:
        case {"$ref": ref} if ref == old:
            part["$ref"] = new
        case dict():
            for each in part.values():
                _point_elsewhere(each, old, new)
        case list():
            for each in part:
                _point_elsewhere(each, old, new)


def _needs_file(kind: Kind) -> bool:
    return any(_needs(kind, name) for name in kind.file_params)


def _needs(kind: Kind, name: str) -> bool:
    field = kind.params().fields.get(name)
    return field is not None and field.required


def _register(auto_schema: AutoSchema, name: str, schema: Schema) -> Schema:
    component = ResolvedComponent(  # type: ignore[no-untyped-call]  # as above
        name=name, type=ResolvedComponent.SCHEMA, schema=schema, object=name
    )
    auto_schema.registry.register_on_missing(component)
    ref: Schema = component.ref
    return ref
