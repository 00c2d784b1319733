"""Rows that are seen and not typed, in lists and tables of bounded size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, cast

from django.contrib import admin
from django.contrib.admin import ShowFacets
from django.core.paginator import Paginator
from django.db.models import Model, QuerySet
from django.forms.models import BaseInlineFormSet
from django.http import HttpRequest
from django.utils.functional import cached_property

if TYPE_CHECKING:
    AnyAdmin = admin.ModelAdmin[Any]
    AnyInline = admin.TabularInline[Any, Any]
    AnyPaginator = Paginator[Any]
    AnyFormSet = BaseInlineFormSet[Any, Any, Any]
else:
    # At run time Django's classes take no type parameters.
    AnyAdmin, AnyInline, AnyPaginator, AnyFormSet = admin.ModelAdmin, admin.TabularInline, Paginator, BaseInlineFormSet

MOST_COUNTED = 10_000
MOST_IN_TABLE = 100


class CappedPaginator(AnyPaginator):
    """Counts and pages the first rows only: `count(*)` of millions takes seconds."""

    @cached_property
    def _found(self) -> int:
        rows = cast("QuerySet[Any]", self.object_list)  # the admin gives no other list
        return rows.order_by().values("pk")[: MOST_COUNTED + 1].count()

    @cached_property
    def count(self) -> int:
        return min(self._found, MOST_COUNTED)

    @property
    def is_capped(self) -> bool:
        return self._found > MOST_COUNTED


class ReadOnlyAdmin(AnyAdmin):
    """Shows rows, the newest first; its filters are the only lookups that a URL may ask for."""

    change_list_template = "admin/capped_change_list.html"
    paginator = CappedPaginator
    show_full_result_count = False
    show_facets = ShowFacets.NEVER
    sortable_by = ()
    ordering: ClassVar[tuple[str, ...]] = ("-pk",)
    list_per_page = 50

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        return lookup in {getattr(each, "parameter_name", None) for each in self.list_filter}


class CappedRows(AnyFormSet):
    """The first rows of a table, in its order."""

    def get_queryset(self) -> QuerySet[Any]:
        if not hasattr(self, "_capped"):
            self._capped = super().get_queryset()[:MOST_IN_TABLE]
        return self._capped


class ReadOnlyInline(AnyInline):
    """A table of a row's belongings; `fields` names its columns."""

    formset = CappedRows
    extra = 0
    max_num = 0
    can_delete = False

    def get_readonly_fields(self, request: HttpRequest, obj: Model | None = None) -> Any:
        return self.fields

    def has_add_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False
