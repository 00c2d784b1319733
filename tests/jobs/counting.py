"""Counts of a test's own, and servers that count nothing."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

import pytest
from pytest_django import Settings

from jobs import tally


@pytest.fixture
def own_counts(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Count apart from other tests, whose users have the same ids and addresses."""
    settings.CHANNEL_PREFIX = f"test-{uuid4()}"
    monkeypatch.setattr(tally, "_circuit", tally.Circuit())
    tally._redis.cache_clear()
    yield
    tally._redis.cache_clear()


@contextmanager
def silent_redis(settings: Settings) -> Iterator[None]:
    """Have Redis take connections and never say a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        settings.REDIS_URL = f"redis://127.0.0.1:{server.getsockname()[1]}/0"
        tally._redis.cache_clear()
        yield


def without_redis(settings: Settings) -> None:
    """Have nobody listen where Redis should be."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    settings.REDIS_URL = f"redis://127.0.0.1:{port}/0"
    tally._redis.cache_clear()
