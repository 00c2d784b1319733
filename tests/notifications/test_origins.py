"""Which pages may open a socket with a session cookie."""

import pytest

from notifications.push.consumers import is_own_origin


@pytest.mark.parametrize(
    ("origin", "host", "is_own"),
    [
        ("http://127.0.0.1:8000", "127.0.0.1:8000", True),
        ("http://localhost:8000", "localhost:8000", True),
        ("http://evil.example:8000", "127.0.0.1:8000", False),
        ("http://evil.example:8000", "evil.example:8000", False),
        ("http://127.0.0.1:9999", "127.0.0.1:8000", False),
        ("null", "127.0.0.1:8000", False),
        ("", "", False),
    ],
)
def test_only_own_pages_and_those_called_by_an_allowed_name_are_known(origin: str, host: str, is_own: bool) -> None:
    assert is_own_origin(origin, host) is is_own
