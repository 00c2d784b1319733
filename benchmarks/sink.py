"""A receiver that answers at once, in a process of its own: `python -m benchmarks.sink <ports>`.

It prints its ports as JSON, answers every POST with 204 and remembers by path how many came, how many `webhook-id`s and
the last one whole; `GET /seen/<path>` tells. It ends with its standard input.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

ACCEPTED = b"HTTP/1.1 204 No Content\r\n\r\n"
END_OF_HEAD = b"\r\n\r\n"
SEEN = "/seen"


@dataclass(kw_only=True)
class Received:
    """What came to one path."""

    count: int = 0
    ids: set[str] = field(default_factory=set)
    last_head: bytes = b""
    last_body: bytes = b""

    def as_dict(self) -> dict[str, Any]:
        return {
            "count": self.count,
            "distinct": len(self.ids),
            "headers": headers_of(self.last_head),
            "body": self.last_body.decode(),
        }


received: dict[str, Received] = defaultdict(Received)


class Sink(asyncio.Protocol):
    """One connection."""

    def __init__(self) -> None:
        self._buffer = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while END_OF_HEAD in self._buffer:
            head, _, rest = self._buffer.partition(END_OF_HEAD)
            length = int(headers_of(head).get("content-length", "0"))
            if len(rest) < length:
                return
            self._buffer = rest[length:]
            self._answer(head, rest[:length])

    def _answer(self, head: bytes, body: bytes) -> None:
        assert self._transport is not None
        _, path, _ = head.partition(b"\r\n")[0].decode().split(" ")
        if path.startswith(SEEN):
            told = json.dumps(received[path.removeprefix(SEEN)].as_dict()).encode()
            self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(told) + told)
            return
        self._transport.write(ACCEPTED)
        among = received[path]
        among.count += 1
        among.ids.add(headers_of(head).get("webhook-id", ""))
        among.last_head, among.last_body = head, body


def headers_of(head: bytes) -> dict[str, str]:
    """Read a request's headers, by their names in lower case."""
    lines = head.decode("latin-1").split("\r\n")[1:]
    return {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


async def serve(count: int) -> None:
    """Listen on some free ports until stdin ends."""
    loop = asyncio.get_running_loop()
    listeners = [await loop.create_server(Sink, "127.0.0.1", 0) for _ in range(count)]
    print(json.dumps([each.sockets[0].getsockname()[1] for each in listeners]), flush=True)
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await reader.read()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
