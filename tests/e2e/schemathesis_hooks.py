"""What schemathesis is told of the API beside its document; `test_schemathesis.py` has it load this."""

from __future__ import annotations

from itertools import count
from typing import Any

import schemathesis
from schemathesis import Case, HookContext

WEBHOOK_URL = "http://127.0.0.1:9/hook"  # the discard port: the stack lets this address through, and nobody answers
NOT_MINE = ("team", "cursor", "jobId", "kinds", "fields")
"""Names whose values must be ones that the server knows; a schema can't say which."""
SOUND_FORMS = ("object with valid 'job' value", "valid object", "positive test case")
"""How it describes those."""
_numbers = count()


@schemathesis.hook
def before_call(context: HookContext, case: Case[Any], kwargs: dict[str, Any]) -> None:
    """Wait a second at most, and give valid requests no name that only a server could know to be good."""
    query = dict(case.query) if case.query else {}
    if str(query.get("wait", "")).isdigit() and 1 < int(query["wait"]) <= 60:
        case.query = query = query | {"wait": 1}
    if case.meta is None or case.meta.generation.mode.is_negative:
        return
    if case.headers and "Idempotency-Key" in case.headers:
        case.headers["Idempotency-Key"] = str(next(_numbers))  # or it would have come before, with another body
    case.query = {name: value for name, value in query.items() if name not in NOT_MINE}
    is_rerun = case.path.endswith("/rerun")
    if isinstance(case.body, dict):
        case.body = _known(case.body, is_rerun)


@schemathesis.hook
def filter_failure(context: HookContext, failure: Exception, case: Case[Any], response: Any) -> bool:
    """Leave out that a form's valid `job` was taken: in forms schemathesis calls some of them wrong."""
    description = (case.meta.phase.data.description if case.meta else None) or ""
    is_sound = case.media_type == "multipart/form-data" and description.lower().startswith(SOUND_FORMS)
    return not (is_sound and type(failure).__name__ == "AcceptedNegativeData")


def _known(body: dict[str, Any], is_rerun: bool) -> dict[str, Any]:
    """Leave out what only the server could know; params belong to a kind, and a rerun's is the first job's."""
    left_out = (*NOT_MINE, "kind", "params") if is_rerun else NOT_MINE
    known = {name: _known_within(value, is_rerun) for name, value in body.items() if name not in left_out}
    return known | {name: WEBHOOK_URL for name in ("url", "callbackUrl") if known.get(name)}


def _known_within(value: Any, is_rerun: bool) -> Any:
    match value:
        case dict():
            return _known(value, is_rerun)
        case list():
            return [_known_within(each, is_rerun) for each in value]
    return value
