"""Django in one hop: few threads that stay, parts of an answer one by one, and what happens where all are busy."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextvars import ContextVar
from typing import Any

import pytest
from django.core.signals import request_finished, request_started
from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse, StreamingHttpResponse
from django.urls import path

from config import one_hop
from config.one_hop import OneHopHandler
from jobs.api.waiting import Answer, Message, ask
from tests.jobs.test_quick_polls import poll

seen_by: list[str] = []
closed: list[str] = []
gate = threading.Event()
mark: ContextVar[str] = ContextVar("mark", default="")


def names(request: HttpRequest) -> HttpResponse:
    """Tell what thread this is, and what an earlier request left here."""
    left, thread = mark.get(), threading.current_thread().name
    mark.set(request.path)
    return JsonResponse({"thread": thread, "left": left, "body": len(request.body)})


def waits(request: HttpRequest) -> HttpResponse:
    gate.wait(20)
    return HttpResponse("done")


def fails(request: HttpRequest) -> HttpResponse:
    raise ValueError("as it was asked to")


class Parts:
    """Parts, of which it is noted which were asked for."""

    def __iter__(self) -> Iterator[bytes]:
        for number in range(100):
            seen_by.append(threading.current_thread().name)
            yield b"%d," % number

    def close(self) -> None:
        closed.append(threading.current_thread().name)


def parts(request: HttpRequest) -> HttpResponseBase:
    return StreamingHttpResponse(Parts())


async def async_parts() -> AsyncIterator[bytes]:
    for number in range(3):
        yield b"%d" % number


def streams_async(request: HttpRequest) -> HttpResponseBase:
    return StreamingHttpResponse(async_parts())


urlpatterns = [
    path("names", names),
    path("waits", waits),
    path("healthz", names),
    path("fails", fails),
    path("parts", parts),
    path("async", streams_async),
]


@pytest.fixture(autouse=True)
def here(settings: Any) -> Iterator[None]:
    settings.ROOT_URLCONF = __name__
    settings.MIDDLEWARE = []
    seen_by.clear()
    closed.clear()
    gate.clear()
    yield
    gate.set()


def get(where: str) -> dict[str, Any]:
    return poll("", "x", path=where)


def text(answer: Answer) -> str:
    return b"".join(answer.body).decode()


def test_requests_share_a_few_threads_and_nothing_else() -> None:
    handler = OneHopHandler(2)

    async def many() -> list[Answer]:
        return await asyncio.gather(*(ask(handler, get("/names")) for _ in range(20)))

    answers = [text(each) for each in asyncio.run(many())]
    assert len({each.partition('"thread"')[2].partition(",")[0] for each in answers}) <= 2
    assert all('"left": ""' in each for each in answers)


def test_a_request_is_begun_and_finished_in_the_thread_that_answers_it() -> None:
    told: list[str] = []

    def note(sender: Any, **_: Any) -> None:
        told.append(f"{sender.__name__} {threading.current_thread().name}")

    for signal in (request_started, request_finished):
        signal.connect(note)
    try:
        asyncio.run(ask(OneHopHandler(1), get("/names")))
    finally:
        for signal in (request_started, request_finished):
            signal.disconnect(note)
    assert told == ["OneHopHandler request_0"] * 2


def test_a_thread_counts_as_taken_until_it_is_free_though_its_client_has_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(one_hop, "QUEUE_SECONDS", 0.05)
    handler = OneHopHandler(1)

    async def leave_and_come() -> tuple[int, int]:
        leaver = asyncio.ensure_future(ask(handler, get("/waits")))
        while not handler._free.locked():
            await asyncio.sleep(0)
        leaver.cancel()
        await asyncio.wait({leaver})
        busy = await ask(handler, get("/names"))
        gate.set()
        while handler._free.locked():
            await asyncio.sleep(0.01)
        return busy.status, (await ask(handler, get("/names"))).status

    assert asyncio.run(asyncio.wait_for(leave_and_come(), 20)) == (503, 200)


def test_a_streamed_answer_is_read_part_by_part_and_closed() -> None:
    answer = asyncio.run(ask(OneHopHandler(1), get("/parts")))
    assert text(answer) == "".join(f"{each}," for each in range(100))
    assert set(seen_by) == set(closed) == {"file_0"}  # a storage that hangs holds no other request up
    assert text(asyncio.run(ask(OneHopHandler(1), get("/async")))) == "012"


def test_no_more_is_read_for_a_client_that_has_left() -> None:
    async def leave_after_two() -> list[Message]:
        messages = [{"type": "http.request", "body": b"", "more_body": False}]
        sent: list[Message] = []
        gone = asyncio.Event()

        async def receive() -> Message:
            if messages:
                return messages.pop()
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            sent.append(message)
            if len(sent) == 3:
                gone.set()
                await asyncio.sleep(0.01)

        await OneHopHandler(1)(get("/parts"), receive, send)
        return sent

    assert len(asyncio.run(leave_after_two())) < 10
    assert len(seen_by) < 10
    assert closed == ["file_0"]


def test_a_fault_is_500(caplog: pytest.LogCaptureFixture) -> None:
    assert asyncio.run(ask(OneHopHandler(1), get("/fails"))).status == 500


def test_where_all_threads_are_busy_one_is_told_so_and_the_process_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(one_hop, "QUEUE_SECONDS", 0.1)
    handler = OneHopHandler(1)

    async def meanwhile() -> tuple[Answer, Answer, Answer]:
        first = asyncio.ensure_future(ask(handler, get("/waits")))
        await asyncio.sleep(0)
        busy, up = await ask(handler, get("/names")), await ask(handler, get("/healthz"))
        gate.set()
        return await first, busy, up

    first, busy, up = asyncio.run(meanwhile())
    assert (first.status, busy.status, up.status) == (200, 503, 200)
    assert busy.header(b"retry-after") == b"5"
    assert busy.header(b"content-type") == b"application/problem+json"
    assert asyncio.run(ask(handler, get("/names"))).status == 200


@pytest.mark.parametrize("size", [0, 10, 1_000_000])
def test_a_body_is_read_whole(size: int, settings: Any) -> None:
    async def post() -> Answer:
        sent: list[Message] = []
        rest = [bytes(min(65536, size - start)) for start in range(0, size, 65536)] or [b""]

        async def receive() -> Message:
            if rest:
                return {"type": "http.request", "body": rest.pop(0), "more_body": bool(rest)}
            return await asyncio.Future()

        async def send(message: Message) -> None:
            sent.append(message)

        scope = {**get("/names"), "method": "POST"}
        scope["headers"] = [*scope["headers"], (b"content-length", str(size).encode())]
        await OneHopHandler(1)(scope, receive, send)
        return Answer(start=sent[0], body=[each["body"] for each in sent[1:]])

    assert f'"body": {size}' in text(asyncio.run(post()))
