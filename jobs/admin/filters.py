"""Filters of the admin's lists, none of which reads a large table to know what it offers."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.contrib import admin
from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.auth import get_user_model
from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone

from jobs.kinds import all_kinds
from jobs.models import Status

MOST_OWNERS = 100
SPANS = {
    "hour": ("Past hour", timedelta(hours=1)),
    "day": ("Past 24 hours", timedelta(days=1)),
    "week": ("Past 7 days", timedelta(days=7)),
    "month": ("Past 30 days", timedelta(days=30)),
}


class OfferedFilter(admin.SimpleListFilter):
    """A filter that takes no value but those it offers, and compares a column with it."""

    column = ""

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        value = self.value()
        return queryset if value is None else queryset.filter(**{self.column: value})

    def value(self) -> str | None:
        """Give the chosen value.

        Raises:
            IncorrectLookupParameters: it isn't offered.
        """
        value = super().value()
        if value is not None and value not in {str(offered) for offered, _ in self.lookup_choices}:
            raise IncorrectLookupParameters
        return value


class StatusFilter(OfferedFilter):
    """By status. Index: job_by_status."""

    title = parameter_name = column = "status"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(each.value, each.label) for each in Status]


class KindFilter(OfferedFilter):
    """By a kind that is declared now. Index: job_by_kind."""

    title = parameter_name = column = "kind"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(each.name, each.name) for each in all_kinds()]


class OwnerFilter(OfferedFilter):
    """By owner; offers the first by name and the one whose name was followed here. Index: job_by_owner."""

    title = parameter_name = column = "owner"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        users = get_user_model()
        named = users._default_manager.order_by(users.USERNAME_FIELD).values_list("pk", users.USERNAME_FIELD)
        offered = {str(pk): name for pk, name in named[:MOST_OWNERS]}
        asked = request.GET.get(self.parameter_name)
        if asked and asked not in offered:
            with suppress(ValidationError):  # `value` refuses it
                offered |= {str(pk): name for pk, name in named.filter(pk=users._meta.pk.to_python(asked))}
        return list(offered.items())


class CreatedFilter(OfferedFilter):
    """By time of creation, read from the UUIDv7 that is the primary key; so it needs no other index."""

    title = parameter_name = "created"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(name, label) for name, (label, _) in SPANS.items()]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        value = self.value()
        return queryset if value is None else queryset.filter(pk__gte=_first_id(timezone.now() - SPANS[value][1]))


def _first_id(moment: datetime) -> UUID:
    """Give the lowest UUIDv7 of a moment: 48 bits of milliseconds come first (RFC 9562 §5.7)."""
    return UUID(int=int(moment.timestamp() * 1000) << 80)
