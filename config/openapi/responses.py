"""The problems and headers that many operations share, as components of the document."""

from __future__ import annotations

from typing import Any

# status: (component, description); the names are those of RFC 9110 and RFC 6585
PROBLEMS = {
    400: (
        "BadRequest",
        "The request is malformed: its body isn't JSON, a form has no part `job`, or a header is wrong.",
    ),
    401: ("Unauthorized", "No credential, or one that is unknown, revoked or expired."),
    403: (
        "Forbidden",
        "You may see this and not do it: the token's scope doesn't reach, the job is a team mate's, or a CSRF token is "
        "missing.",
    ),
    404: ("NotFound", "There is nothing here, or nothing that you may see."),
    405: ("MethodNotAllowed", "This path has no such method; `Allow` names those that it has."),
    406: ("NotAcceptable", "The answer comes in no type that `Accept` names."),
    409: ("Conflict", "The job isn't in a state for this, or a key is taken."),
    410: ("Gone", "The cursor can't be followed any more; begin anew."),
    412: ("PreconditionFailed", "A condition of the request doesn't hold."),
    413: ("ContentTooLarge", "Over 1 MiB of JSON, or more files than are taken."),
    415: ("UnsupportedMediaType", "The body comes in a type that this operation doesn't read."),
    422: (
        "UnprocessableContent",
        "Well-formed, and it breaks a rule: `errors` has a pointer for each fault in the body, or a parameter.",
    ),
    429: ("TooManyRequests", "Too many requests, or too many unfinished jobs; `Retry-After` says when to come again."),
    503: ("ServiceUnavailable", "The database is away; `Retry-After` says when to come again."),
}

# name: (schema, description, whether it always comes)
_HEADERS: dict[str, tuple[dict[str, Any], str, bool]] = {
    "Location": ({"type": "string", "format": "uri"}, "Where to read what was made.", False),
    "Retry-After": ({"type": "integer", "minimum": 0}, "Seconds until it makes sense to ask again.", False),
    "ETag": ({"type": "string"}, "Names this state; give it as `If-None-Match`.", True),
    "WWW-Authenticate": ({"type": "string"}, "The scheme to use (RFC 6750).", False),
    "Allow": ({"type": "string"}, "The methods that this path has.", True),
    "Idempotent-Replayed": (
        {"type": "string", "const": "true"},
        "There where the same `Idempotency-Key` came before: this is the first answer again.",
        False,
    ),
    "Preference-Applied": ({"type": "string"}, "What of `Prefer` was followed (RFC 7240).", False),
    "RateLimit-Policy": (
        {"type": "string"},
        'The rule, such as `"submit";q=600;w=60`, where the operator has set one.',
        False,
    ),
    "RateLimit": ({"type": "string"}, 'What is left of it, such as `"submit";r=599;t=42`.', False),
}
_PROBLEM_HEADERS = {
    401: ("WWW-Authenticate",),
    403: ("WWW-Authenticate",),
    405: ("Allow",),
    429: ("Retry-After", "RateLimit-Policy", "RateLimit"),
    503: ("Retry-After",),
}


def header_refs(*names: str) -> dict[str, Any]:
    """Refer to headers of the document."""
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def problem_ref(status: int) -> dict[str, Any]:
    """Refer to a problem of the document."""
    return {"$ref": f"#/components/responses/{PROBLEMS[status][0]}"}


def add_shared_components(result: dict[str, Any], **_: Any) -> dict[str, Any]:
    """Add what operations refer to; a postprocessing hook of drf-spectacular."""
    result["components"]["headers"] = {
        name: {"schema": schema, "description": description, "required": is_always_there}
        for name, (schema, description, is_always_there) in _HEADERS.items()
    }
    result["components"]["responses"] = {
        name: {
            "description": description,
            "headers": header_refs(*_PROBLEM_HEADERS.get(status, ())),
            "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status, (name, description) in PROBLEMS.items()
    }
    return result
