"""Parts of a file: what a `Range` header asks for, and the answer in parts (RFC 9110 §14)."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO

CHUNK_BYTES = 256 * 1024
MOST_RANGES = 16
_SPEC = re.compile(r"(\d{0,18})-(\d{0,18})")


@dataclass(frozen=True, kw_only=True)
class ByteRange:
    """Bytes of a file, both ends included."""

    first: int
    last: int

    @property
    def length(self) -> int:
        return self.last + 1 - self.first

    def content_range(self, size: int) -> str:
        """Write it as `Content-Range` has it."""
        return f"bytes {self.first}-{self.last}/{size}"


class NoneSatisfiable(Exception):
    """All that is asked for lies beyond the file's end: 416."""


def ranges_of(header: str, size: int) -> list[ByteRange]:
    """Read a `Range` header.

    Args:
        header: its value; empty if there is none.
        size: of the file, in bytes.

    Returns:
        What to send; nothing where the header is to be ignored: it is malformed, it asks for very many parts, or for
        more than the whole (§14.2 lets a server refuse the last two).

    Raises:
        NoneSatisfiable: it is sound, and nothing that it asks for is there.
    """
    unit, is_given, specs = header.partition("=")
    if not is_given or unit.strip().lower() != "bytes":
        return []
    wanted = [each.strip() for each in specs.split(",", MOST_RANGES + 1) if each.strip()]
    if not wanted or len(wanted) > MOST_RANGES:
        return []
    ranges = []
    for spec in wanted:
        match = _SPEC.fullmatch(spec)
        if match is None or not is_sound(match[1], match[2]):
            return []
        first = int(match[1]) if match[1] else max(0, size - int(match[2]))
        last = min(int(match[2]), size - 1) if match[1] and match[2] else size - 1
        if first <= last:
            ranges.append(ByteRange(first=first, last=last))
    if not ranges:
        raise NoneSatisfiable
    return ranges if sum(each.length for each in ranges) <= size else []


def is_sound(first: str, last: str) -> bool:
    """Tell whether a range is one: `5-2` and `-` are none (§14.1.1)."""
    return bool(first or last) and not (first and last and int(last) < int(first))


class Parts:
    """Ranges of an open file, each behind a head of its own, read bit by bit; closing it closes the file."""

    def __init__(self, file: IO[bytes], parts: Sequence[tuple[bytes, ByteRange]], end: bytes = b"") -> None:
        self._file = file
        self._parts = parts
        self._end = end

    @property
    def length(self) -> int:
        """How many bytes it has in all."""
        return sum(len(head) + each.length for head, each in self._parts) + len(self._end)

    def __iter__(self) -> Iterator[bytes]:
        for head, each in self._parts:
            if head:
                yield head
            self._file.seek(each.first)
            left = each.length
            while left > 0 and (chunk := self._file.read(min(CHUNK_BYTES, left))):
                left -= len(chunk)
                yield chunk
        if self._end:
            yield self._end

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def multipart(file: IO[bytes], ranges: Sequence[ByteRange], size: int, content_type: str) -> tuple[str, Parts]:
    """Put several ranges into one body (§14.6).

    Returns:
        Its media type, and the body.
    """
    boundary = secrets.token_hex(16)
    parts = []
    for place, each in enumerate(ranges):
        head = (
            f"{'' if place == 0 else chr(13) + chr(10)}--{boundary}\r\n"
            f"Content-Type: {content_type}\r\nContent-Range: {each.content_range(size)}\r\n\r\n"
        )
        parts.append((head.encode("latin-1"), each))
    return f"multipart/byteranges; boundary={boundary}", Parts(file, parts, f"\r\n--{boundary}--\r\n".encode())
