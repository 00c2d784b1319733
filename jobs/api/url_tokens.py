"""The watch token of a URL, taken out of it before anything could write it down."""

from __future__ import annotations

from urllib.parse import unquote_plus

from django.http import HttpRequest

_KEPT = "_kabar_url_token"
_NAME = "token="


def take_token_out(request: HttpRequest) -> None:
    """Take `?token=` out of a request's query string, so that no log, error report or answer shows it."""
    parts = request.META.get("QUERY_STRING", "").split("&")
    tokens = [each for each in parts if each.startswith(_NAME)]
    if tokens:
        request.META["QUERY_STRING"] = "&".join(each for each in parts if not each.startswith(_NAME))
        setattr(request, _KEPT, unquote_plus(tokens[-1].removeprefix(_NAME)))


def token_of_url(request: HttpRequest) -> str | None:
    """Give the token that stood in a request's URL."""
    return getattr(request, _KEPT, None)
