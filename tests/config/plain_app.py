"""A plain ASGI application behind the web process's server: it sends much, takes much, and tells what it sees."""

from __future__ import annotations

import gc
import json
from typing import Any

from config import web

PART = bytes(64 * 1024)
PARTS = 1024
sent = 0


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answer by the path."""
    match scope["path"]:
        case "/many":
            await send_many(send)
        case "/sent":
            await answer(send, sent)
        case "/requests":
            gc.collect()
            await answer(send, sum(isinstance(each, web.LimitedRequest) for each in gc.get_objects()))
        case "/take":
            await answer(send, await parts_of(receive))
        case "/fail-amid":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": PART, "more_body": True})
            raise ValueError("as it was asked to")
        case "/fail":
            raise ValueError("as it was asked to")


async def send_many(send: Any) -> None:
    """Send 64 MiB in parts, and count those that the server has taken."""
    global sent
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for sent in range(1, PARTS + 1):  # noqa: B007 - what /sent tells
        await send({"type": "http.response.body", "body": PART, "more_body": True})
    await send({"type": "http.response.body"})


async def parts_of(receive: Any) -> dict[str, int]:
    """Take a body, and tell of its parts."""
    sizes = []
    while True:
        message = await receive()
        sizes.append(len(message["body"]))
        if not message["more_body"]:
            return {"bytes": sum(sizes), "largest": max(sizes)}


async def answer(send: Any, value: Any) -> None:
    """Answer with JSON."""
    body = json.dumps(value).encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


if __name__ == "__main__":
    web.serve(app)
