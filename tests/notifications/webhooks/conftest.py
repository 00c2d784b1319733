"""Senders and sinks, closed when the test is over."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from notifications.webhooks.addresses import AllowList
from notifications.webhooks.egress import Sender
from tests.notifications.webhooks.sink import Script, Sink


@pytest.fixture
def open_sink() -> Iterator[Callable[[Script], Sink]]:
    """Open a receiver that plays a script on each connection."""
    with ExitStack() as stack:

        def opener(script: Script) -> Sink:
            sink = Sink(script)
            stack.callback(sink.stop)
            return sink

        yield opener


@pytest.fixture
def open_sender() -> Iterator[Callable[..., Sender]]:
    """Make a sender, by default one that may send to 127.0.0.1."""
    with ExitStack() as stack:

        def opener(allow: str = "127.0.0.1", **options: Any) -> Sender:
            sender = Sender(allow=AllowList.parse(allow), **options)
            stack.callback(sender.close)
            return sender

        yield opener


@pytest.fixture
def sender(open_sender: Callable[..., Sender]) -> Sender:
    return open_sender()
