"""The list of jobs: filters from the query, newest first, by a cursor that neither skips nor repeats."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from math import isfinite
from typing import Any
from uuid import UUID

from django.db.models import JSONField, Lookup, Prefetch, Q, QuerySet
from django.http import QueryDict
from rest_framework.exceptions import ValidationError
from rest_framework.fields import DateTimeField

from jobs.api.chosen_fields import trimmed
from jobs.log import finishing_artifacts
from jobs.models import Artifact, Job, Status
from jobs.representation import job_as_dict
from jobs.visibility import Viewer

PAGE = 50
LARGEST_PAGE = 200
FILTERS = {
    "status",
    "kind",
    "tag",
    "batch",
    "errorCode",
    "createdAfter",
    "createdBefore",
    "cursor",
    "limit",
    "scope",
    "fields",
}
METADATA = "metadata."
PLAIN = re.compile(r"true|false|null|-?(0|[1-9]\d{0,17})(\.\d{1,17})?([eE][+-]?\d{1,3})?")


@JSONField.register_lookup
class HasAnyOf(Lookup):
    """Match a JSON list that holds one of some strings: `tags__has_any_of=[…]`."""

    lookup_name = "has_any_of"
    prepare_rhs = False

    def as_postgresql(self, compiler: Any, connection: Any) -> tuple[str, list[Any]]:
        left, params = self.process_lhs(compiler, connection)
        return f"{left} ?| %s", [*params, list(self.rhs)]

    def as_sqlite(self, compiler: Any, connection: Any) -> tuple[str, list[Any]]:
        left, params = self.process_lhs(compiler, connection)
        places = ", ".join(["%s"] * len(self.rhs))
        sql = f"EXISTS (SELECT 1 FROM json_each({left}) WHERE value IN ({places}))"  # noqa: S608 - placeholders only
        return sql, [*params, *self.rhs]


@JSONField.register_lookup
class HoldsOne(Lookup):
    """Match a JSON object with a member that is one of some words: `metadata__holds_one=(name, […])`.

    A word is a string, and where it is JSON's word for a number, true, false or null, that too. Django's own key
    lookups read `a__b` as a path and `0` as a place in a list.
    """

    lookup_name = "holds_one"
    prepare_rhs = False

    def as_postgresql(self, compiler: Any, connection: Any) -> tuple[str, list[Any]]:
        left, params = self.process_lhs(compiler, connection)
        name, words = self.rhs
        values = [json.dumps(each) for word in words for each in (word, *_plain_values(word))]
        return f"{left} -> %s::text = ANY(%s::jsonb[])", [*params, name, values]

    def as_sqlite(self, compiler: Any, connection: Any) -> tuple[str, list[Any]]:
        left, params = self.process_lhs(compiler, connection)
        name, words = self.rhs
        plain = [value for word in words for value in _plain_values(word)]
        numbers = [value for value in plain if value is not None and not isinstance(value, bool)]
        others = [json.dumps(value) for value in plain if value is None or isinstance(value, bool)]
        kinds = (
            ("type = 'text' AND value", words),
            ("type IN ('integer', 'real') AND value", numbers),
            ("type", others),
        )
        tests = [f"{left_side} IN ({', '.join(['%s'] * len(some))})" for left_side, some in kinds if some]
        member = f"key = %s AND ({' OR '.join(tests)})"
        values = [name, *words, *numbers, *others]
        return f"EXISTS (SELECT 1 FROM json_each({left}) WHERE {member})", [*params, *values]  # noqa: S608


def _plain_values(word: str) -> list[Any]:
    """Give the number, boolean or null that a word is in JSON, if it is one that a database can hold."""
    if not PLAIN.fullmatch(word):
        return []
    value = json.loads(word)
    return [] if isinstance(value, float) and not isfinite(value) else [value]


@dataclass(frozen=True, kw_only=True)
class Found:
    """A page of jobs, newest first, with their files."""

    jobs: list[Job]
    next_cursor: str | None
    """None on the last page."""


def find_jobs(viewer: Viewer, query: QueryDict) -> Found:
    """Find a page of the jobs that a viewer sees.

    Raises:
        ValidationError: a filter is unknown or malformed.
    """
    limit = _limit(query)
    scope_all = query.get("scope") == "all"
    found = Job.objects.filter(viewer.visible(scope_all=scope_all), _filters(query)).order_by("-id")
    if "cursor" in query:
        found = found.filter(pk__lt=_uuid(query, "cursor"))
    rows = list(with_artifacts(found)[: limit + 1])
    return Found(jobs=rows[:limit], next_cursor=str(rows[limit - 1].pk) if len(rows) > limit else None)


def page_as_dict(found: Found, names: Collection[str] | None = None) -> dict[str, Any]:
    """Show a page of jobs as the API does.

    Args:
        found: the page.
        names: what is shown of each job; all if None.
    """
    items = [trimmed(job_as_dict(job, finishing_artifacts(job)), names) for job in found.jobs]
    return {"items": items, "nextCursor": found.next_cursor}


def with_artifacts(jobs: QuerySet[Job]) -> QuerySet[Job]:
    """Read the files of jobs along with them."""
    return jobs.prefetch_related(Prefetch("artifacts", Artifact.objects.order_by("id")))


def _filters(query: QueryDict) -> Q:
    if unknown := [name for name in query if name not in FILTERS and not name.startswith(METADATA)]:
        raise ValidationError({name: ["There is no such filter."] for name in unknown})
    if query.get("scope", "all") != "all":
        raise ValidationError({"scope": ["This can only be all."]})
    found = Q()
    if statuses := query.getlist("status"):
        if wrong := set(statuses) - set(Status.values):
            raise ValidationError({"status": [f"There is no status {', '.join(sorted(wrong))}."]})
        found &= Q(status__in=statuses)
    if kinds := _texts(query, "kind"):
        found &= Q(kind__in=kinds)
    if tags := _texts(query, "tag"):
        found &= Q(tags__has_any_of=tags)
    if "batch" in query:
        found &= Q(batch=_uuid(query, "batch"))
    if codes := _texts(query, "errorCode"):
        found &= Q(error__code__in=codes)
    for name in query:
        if name.startswith(METADATA):
            found &= Q(metadata__holds_one=(_text(name).removeprefix(METADATA), _texts(query, name)))
    if "createdAfter" in query:
        found &= Q(created_at__gt=_time(query, "createdAfter"))
    if "createdBefore" in query:
        found &= Q(created_at__lt=_time(query, "createdBefore"))
    return found


def _texts(query: QueryDict, name: str) -> list[str]:
    return [_text(each, name) for each in query.getlist(name)]


def _text(text: str, name: str | None = None) -> str:
    if "\0" in text:
        raise ValidationError({name or text: ["This text holds the character NUL."]})
    return text


def _limit(query: QueryDict) -> int:
    text = query.get("limit", str(PAGE))
    if not (text.isascii() and text.isdigit() and len(text) <= 4 and 1 <= int(text) <= LARGEST_PAGE):
        raise ValidationError({"limit": [f"This must be a whole number from 1 to {LARGEST_PAGE}."]})
    return int(text)


def _uuid(query: QueryDict, name: str) -> UUID:
    try:
        return UUID(str(query[name]))
    except ValueError as error:
        raise ValidationError({name: ["This is not one of ours."]}) from error


def _time(query: QueryDict, name: str) -> datetime:
    try:
        moment: datetime = DateTimeField().run_validation(query[name])
    except ValidationError as error:
        raise ValidationError({name: ["This must be a time like 2026-11-24T12:00:00Z."]}) from error
    return moment
