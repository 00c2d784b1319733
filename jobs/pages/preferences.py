"""The language and the theme that a reader chose."""

from __future__ import annotations

from django.conf import settings
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.utils.translation import check_for_language
from django.views.decorators.http import require_POST

from jobs.pages.reading import next_address
from jobs.templatetags.kabar import THEMES

YEAR_SECONDS = 365 * 24 * 3600


@require_POST
def preferences(request: HttpRequest) -> HttpResponse:
    """Keep the language or the theme that the reader chose, in a cookie."""
    response = HttpResponseRedirect(next_address(request))
    chosen = {
        settings.LANGUAGE_COOKIE_NAME: (request.POST.get("language", ""), check_for_language),
        "theme": (request.POST.get("theme", ""), THEMES.__contains__),
    }
    for name, (value, is_known) in chosen.items():
        if value and is_known(value):
            response.set_cookie(
                name, value, max_age=YEAR_SECONDS, samesite="Lax", secure=settings.SESSION_COOKIE_SECURE
            )
    return response
