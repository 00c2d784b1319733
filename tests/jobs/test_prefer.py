"""How a `Prefer` header is read (RFC 7240)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.api.prefer import preferences, preferred_wait


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("wait=5", 5),
        ("wait=60", 60),
        ("wait=61", 60),
        ("wait=999999999", 60),
        ("wait", 60),
        ("wait=", 60),
        ('wait=""', 60),
        ('wait="7"', 7),
        ('wait="\\7"', 7),
        ("WAIT=5", 5),
        ("wait = 5", 5),
        ("wait=5; foo=bar", 5),
        ("wait=5;foo", 5),
        ("respond-async, wait=10", 10),
        ("respond-async,wait=10", 10),
        ('return=minimal; x="a,b", wait=3', 3),
        ("wait=4, wait=9", 4),
        (", ,wait=2", 2),
        ("odd odd, wait=2", 2),
        ("=, wait=2", 2),
        ("", 0),
        ("respond-async", 0),
        ("wait=0", 0),
        ("wait=-1", 0),
        ("wait=1.5", 0),
        ("wait=soon", 0),
        ("wait=٣", 0),
        ("wait=9999999999", 0),
        ("wait 5", 0),
        ("waiting=5", 0),
        ('x="wait=5"', 0),
        ('x="a, wait=5", y', 0),
        ("wait=5 6", 0),
        ("x" * 480 + ", wait=5", 5),
        ("x" * 500 + ", wait=5", 0),
    ],
)
def test_the_time_to_wait_is_read_and_what_is_malformed_is_passed_over(header: str, seconds: int) -> None:
    assert preferred_wait(header) == seconds


@given(st.text(alphabet='wait=5",;\\ x', max_size=60))
def test_any_header_is_read_to_its_end(header: str) -> None:
    assert 0 <= preferred_wait(header) <= 60
    assert all(name == name.lower() for name in preferences(header))
