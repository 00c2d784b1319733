"""What can be run: the registry of kinds and the decorator that declares one.

A kind is declared where its handler is written, in the `kinds.py` of any installed app:

    @kind("greet", params=GreetParams)
    def greet(context, params):
        context.progress(50, "Finding the words")
        return {"greeting": f"Halo, {params['name']}"}
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from rest_framework import serializers

from jobs.failures import UnknownKind

if TYPE_CHECKING:
    from jobs.context import Context

    # Params and results are JSON, whose shape only the kind itself knows.
    Handler = Callable[[Context, dict[str, Any]], Any]

NAME = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)*")


class UploadField(serializers.FileField):
    """A file parameter: a part of the multipart submission; the handler gets an `InputFile`."""


class NoParams(serializers.Serializer[Any]):
    """For kinds that take none."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One sort of job."""

    name: str
    handler: Handler
    params: type[serializers.Serializer[Any]]
    title: str
    description: str
    timeout_seconds: int
    max_attempts: int
    queue: str
    retention: timedelta
    max_running: int | None = None
    max_running_per_user: int | None = None

    @property
    def is_limited(self) -> bool:
        """Whether only so many of its jobs may run at once."""
        return self.max_running is not None or self.max_running_per_user is not None

    @cached_property
    def is_async(self) -> bool:
        """Whether its handler is a coroutine function."""
        return inspect.iscoroutinefunction(self.handler)

    @cached_property
    def file_params(self) -> list[str]:
        """Names of the parameters that are files."""
        return [name for name, field in self.params().fields.items() if isinstance(field, UploadField)]


_registry: dict[str, Kind] = {}


def kind(
    name: str,
    *,
    params: type[serializers.Serializer[Any]] = NoParams,
    title: str = "",
    description: str = "",
    timeout: int = 600,
    max_attempts: int = 3,
    queue: str = "default",
    retention: timedelta | None = None,
    max_running: int | None = None,
    max_running_per_user: int | None = None,
) -> Callable[[Handler], Handler]:
    """Declare the decorated function as the handler of a kind of jobs.

    The handler may run more than once for one job (a worker can die after its work and before its word of it), so
    what it does outside should be safe to repeat; `context.idempotency_token` is the same at each attempt.

    Args:
        name: dotted lower-case words, such as `csv.report`.
        params: a DRF serializer; checks the params at submission and describes them in OpenAPI.
        title: for people; made of the name if empty.
        description: for people; the handler's docstring if empty.
        timeout: seconds for one attempt.
        max_attempts: how many attempts may be begun.
        queue: the Celery queue whose workers run it.
        retention: how long a finished job is kept with its files; the setting `RETENTION` if None.
        max_running: how many of its jobs may run at once.
        max_running_per_user: how many of each user's may.

    Raises:
        ImproperlyConfigured: the name is malformed or taken, or a limit isn't positive.
    """

    def declare(handler: Handler) -> Handler:
        if not NAME.fullmatch(name):
            raise ImproperlyConfigured(f"The kind {name!r} must be lower-case words joined by dots.")
        standing = _registry.get(name)
        if standing and standing.handler.__module__ != handler.__module__:
            raise ImproperlyConfigured(f"The kind {name!r} is declared twice, in {standing.handler.__module__} too.")
        for limit in (max_running, max_running_per_user):
            if limit is not None and limit < 1:
                raise ImproperlyConfigured(f"The kind {name!r} lets {limit} jobs run; a limit must be at least 1.")
        _registry[name] = Kind(
            name=name,
            handler=handler,
            params=params,
            title=title or name.replace(".", " ").replace("_", " ").capitalize(),
            description=description or (handler.__doc__ or "").strip(),
            timeout_seconds=timeout,
            max_attempts=max_attempts,
            queue=queue,
            retention=retention or settings.RETENTION,
            max_running=max_running,
            max_running_per_user=max_running_per_user,
        )
        return handler

    return declare


def get_kind(name: str) -> Kind:
    """Look a kind up.

    Raises:
        UnknownKind: no installed app declares it.
    """
    try:
        return _registry[name]
    except KeyError:
        raise UnknownKind(f"There is no kind {name!r}; GET /api/kinds lists those that there are.") from None


def all_kinds() -> list[Kind]:
    """List the kinds by name."""
    return sorted(_registry.values(), key=lambda each: each.name)


def is_kind(name: str) -> bool:
    """Tell whether an installed app declares a kind of this name."""
    return name in _registry


def kind_names() -> list[str]:
    """List the kinds' names."""
    return sorted(_registry)
