"""What every request to the API goes through, whatever view it reaches."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus

from django.http import HttpRequest, HttpResponse

from jobs.api.errors import problem
from jobs.api.throttling import write_standing
from jobs.api.url_tokens import take_token_out, token_of_url


class ApiMiddleware:
    """Takes tokens out of URLs, keeps URLs to themselves, and says how much of a rate is left."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Pass a request on."""
        if not request.path_info.startswith("/api/"):
            return self._get_response(request)
        take_token_out(request)
        if request.headers.get("Content-Encoding", "identity").strip().lower() != "identity":
            return uncoded_only(request)
        response = self._get_response(request)
        response.headers.setdefault("Referrer-Policy", "no-referrer")
        if token_of_url(request) is not None:
            response.headers.setdefault("Cache-Control", "private, no-store")  # RFC 6750 §2.3
        write_standing(request, response)
        return response


def uncoded_only(request: HttpRequest) -> HttpResponse:
    """Refuse a body that is compressed, and say so (RFC 9110 §15.5.16)."""
    response = problem(request, HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "Bodies are read as they are, not compressed.")
    response["Accept-Encoding"] = "identity"
    return response
