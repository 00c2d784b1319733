"""The courier of hints: it merges what waits, never holds its sender up, and starts anew after a fork."""

from __future__ import annotations

import os
import threading
from typing import Any

import pytest

from jobs import courier
from jobs.courier import Courier
from tests.waiting import wait_until


class Way:
    """Where hints are delivered: open or closed, and for as long as a test wants."""

    def __init__(self) -> None:
        self.delivered: list[tuple[str, int]] = []
        self.tries = 0
        self.is_open = threading.Event()
        self.is_open.set()
        self.is_broken = False
        self.begun = threading.Event()

    def deliver(self, hints: dict[str, int]) -> None:
        self.tries += 1
        self.begun.set()
        assert self.is_open.wait(timeout=20)
        if self.is_broken:
            raise ConnectionError("the way is closed")
        self.delivered += hints.items()


def add(one: int, other: int) -> int:
    return one + other


@pytest.fixture
def way(monkeypatch: pytest.MonkeyPatch) -> Way:
    monkeypatch.setattr(courier, "FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(courier, "LONGEST_PAUSE_SECONDS", 0.02)
    return Way()


def test_a_hint_is_delivered(way: Way) -> None:
    sender: Courier[str, int] = Courier("test", way.deliver, add, keep=False)
    sender.send("a", 1)
    assert sender.flush(5)
    assert way.delivered == [("a", 1)]


def test_hints_of_one_key_merge_while_they_wait_and_keys_keep_their_order(way: Way) -> None:
    sender: Courier[str, int] = Courier("test", way.deliver, add, keep=False)
    way.is_open.clear()
    sender.send("first", 1)
    assert way.begun.wait(timeout=5)
    for each in range(1000):
        sender.send("a", 1)
        if each == 0:
            sender.send("b", 7)
    way.is_open.set()
    assert sender.flush(5)
    assert way.delivered == [("first", 1), ("a", 1000), ("b", 7)]


def test_a_sender_is_not_held_up_by_a_closed_way(way: Way) -> None:
    sender: Courier[str, int] = Courier("test", way.deliver, add, keep=False)
    way.is_open.clear()
    for _ in range(10_000):
        sender.send("a", 1)
    assert not sender.flush(0.05)
    way.is_open.set()
    assert sender.flush(5)
    assert sum(count for _, count in way.delivered) == 10_000


def test_a_hint_that_is_kept_goes_out_when_the_way_opens_merged_with_newer_ones(way: Way) -> None:
    sender: Courier[str, int] = Courier("test", way.deliver, lambda _standing, newer: newer, keep=True)
    way.is_broken = True
    sender.send("a", 1)
    wait_until(lambda: way.tries >= 3)
    assert not sender.flush(0.02)
    sender.send("a", 2)
    sender.send("b", 3)
    way.is_broken = False
    assert sender.flush(5)
    assert dict(way.delivered) == {"a": 2, "b": 3}
    assert len(way.delivered) == 2


def test_a_hint_that_is_not_kept_is_tried_once(way: Way) -> None:
    sender: Courier[str, int] = Courier("test", way.deliver, add, keep=False)
    way.is_broken = True
    sender.send("a", 1)
    assert sender.flush(5)
    assert (way.tries, way.delivered) == (1, [])
    way.is_broken = False
    sender.send("a", 5)
    assert sender.flush(5)
    assert way.delivered == [("a", 5)]


def test_a_dropped_hint_is_not_delivered(way: Way) -> None:
    sender: Courier[str, int] = Courier("test", way.deliver, add, keep=True)
    way.is_open.clear()
    sender.send("first", 1)
    assert way.begun.wait(timeout=5)
    sender.send("a", 1)
    sender.send("b", 1)
    sender.drop("a")
    sender.drop("never sent")
    way.is_open.set()
    assert sender.flush(5)
    assert way.delivered == [("first", 1), ("b", 1)]


def test_a_courier_that_was_never_used_has_nothing_to_flush(way: Way) -> None:
    sender: Courier[str, int] = Courier("test", way.deliver, add, keep=True)
    assert sender.flush(0)


def in_child(test: Any) -> None:
    """Fork, and check in the child that `test` gives True."""
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if test() else 1)
        finally:
            os._exit(2)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_has_a_courier_of_its_own_and_none_of_its_parents_hints(way: Way) -> None:
    sender: Courier[str, int] = Courier("test", way.deliver, add, keep=True)
    sender.send("a", 1)
    assert sender.flush(5)
    way.begun.clear()
    way.is_open.clear()
    sender.send("a", 2)
    assert way.begun.wait(timeout=5)
    sender.send("waits", 3)  # while the courier is out, and its lock in whatever state

    def child() -> bool:
        way.delivered.clear()
        way.is_open = threading.Event()
        way.is_open.set()
        sender.send("b", 4)
        return sender.flush(5) and way.delivered == [("b", 4)]

    in_child(child)
    way.is_open.set()
    assert sender.flush(5)
    assert way.delivered == [("a", 1), ("a", 2), ("waits", 3)]
