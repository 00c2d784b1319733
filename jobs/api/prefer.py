"""The `Prefer` header (RFC 7240): how long a client would rather wait for the end than take a receipt."""

from __future__ import annotations

import re

from jobs.api.waiting import LONGEST_SECONDS

_WORD = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_QUOTED = r'"(?:[^"\\]|\\.)*"'
# preference = token [ BWS "=" BWS word ] *( OWS ";" [ OWS parameter ] ), in a list with commas (§2).
_ITEM = re.compile(
    rf'\s*(?P<name>{_WORD})(?:\s*=\s*(?P<value>{_WORD}|{_QUOTED})?)?(?P<rest>(?:{_QUOTED}|[^",])*)(?:,|$)'
)
_NO_ITEM = re.compile(rf"(?:{_QUOTED}|[^,])*(?:,|$)")


LONGEST_HEADER = 500
"""Characters; what is longer says nothing that is meant, and would take the patterns long."""


def preferences(header: str) -> dict[str, str]:
    """Read a `Prefer` header: each preference's value, empty where it has none, by its name in small letters.

    The first of a name counts, and what isn't well formed is passed over (§2).
    """
    found: dict[str, str] = {}
    if len(header) > LONGEST_HEADER:
        return found
    place = 0
    while place < len(header):
        item = _ITEM.match(header, place)
        if item and item["rest"].lstrip()[:1] in ("", ";"):
            value = item["value"] or ""
            if value.startswith('"'):
                value = re.sub(r"\\(.)", r"\1", value[1:-1])
            found.setdefault(item["name"].lower(), value)
        elif item is None:
            item = _NO_ITEM.match(header, place)
        place = max(item.end(), place + 1) if item else len(header)
    return found


def preferred_wait(header: str) -> int:
    """Say for how many seconds a client would rather have its answer held; 0 where it doesn't say, or not well.

    A `wait` without a value means the longest, and more than that is as much as that.
    """
    value = preferences(header).get("wait")
    if value is None:
        return 0
    if value == "":
        return LONGEST_SECONDS
    if not (value.isascii() and value.isdigit() and len(value) <= 9):
        return 0
    return min(int(value), LONGEST_SECONDS)
