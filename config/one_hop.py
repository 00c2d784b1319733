"""Django under ASGI in one hop: signals, middleware, view and rendering of a request run together in one kept thread.

Django's own ASGI handler takes a new thread for each request and goes there and back for each signal, for the view and
twice for each synchronous middleware; on a status poll that is most of the time (docs/decisions/polls.md). All of
Kabar's middleware and views are synchronous, so here the whole chain is. The threads are few and stay, so each keeps
its database connection.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import aclosing
from contextvars import Context, copy_context
from http import HTTPStatus
from typing import IO, Any, TypeVar, cast

from django.conf import settings
from django.core import signals
from django.core.exceptions import RequestAborted
from django.core.handlers.asgi import ASGIHandler, get_script_prefix
from django.http import FileResponse, HttpRequest, HttpResponseBase, StreamingHttpResponse
from django.urls import set_script_prefix

from jobs.api.counted import note_route
from jobs.api.errors import DATABASE_AWAY_SECONDS, problem
from jobs.api.waiting import Message, Send, client_leaves

QUEUE_SECONDS = 5.0
"""How long a request waits for a thread. They are all taken for so long where the database hangs, so it is told 503."""
FILE_CHUNK_BYTES = 256 * 1024
BODY_IN_MEMORY_BYTES = 64 * 1024
"""Larger bodies go to a temporary file; Django would keep them in memory where uploads are to go to disk at once."""
WITHOUT_DATABASE = "/healthz"
"""Has a thread of its own: a process whose database hangs is up all the same."""

T = TypeVar("T")


class OneHopHandler(ASGIHandler):
    """Answers each request in one of a few threads.

    Args:
        threads: how many, and so how many database connections they keep.
    """

    def __init__(self, threads: int) -> None:
        super().__init__()
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="request")
        self._free = asyncio.Semaphore(threads)
        self._files = ThreadPoolExecutor(threads, thread_name_prefix="file")  # a storage that hangs holds no request up
        self._probe = ThreadPoolExecutor(1, thread_name_prefix="healthz")

    def load_middleware(self, is_async: bool = False) -> None:
        """Build the chain for threads, whatever the base class asks for."""
        super().load_middleware(is_async=False)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # Any: ASGI's own, as the base class has it
        """Answer one request."""
        try:
            body = await self.read_body(receive)
        except RequestAborted:
            return
        context = copy_context()  # the request's own, in whichever thread it goes on
        if scope["path"] == WITHOUT_DATABASE:
            response = await _run(self._probe, context, self.respond, scope, body)
        elif await self._has_thread_by(QUEUE_SECONDS):
            answering = asyncio.ensure_future(_run(self._threads, context, self.respond, scope, body))
            # Once the thread is free, which may be long after the client has gone and this task was cancelled.
            answering.add_done_callback(lambda _: self._free.release())
            response = await asyncio.shield(answering)
        else:
            body.close()
            response = _busy()
        if not isinstance(response, StreamingHttpResponse):
            await self.send_response(response, send)
            return
        leaving = asyncio.ensure_future(client_leaves(receive))
        try:
            await self._stream(response, context, send, leaving)
        finally:
            leaving.cancel()
            await asyncio.shield(_run(self._files, copy_context(), response.close))

    def respond(self, scope: Message, body: IO[bytes]) -> HttpResponseBase:
        """Answer a request, in a thread; only what streams is still open afterwards."""
        set_script_prefix(get_script_prefix(scope))
        signals.request_started.send(sender=self.__class__, scope=scope)
        request, refusal = self.create_request(scope, body)
        if request is None:
            body.close()
        response: Any = self.get_response(request) if request else refusal
        if request and request.resolver_match:
            note_route(scope, f"/{request.resolver_match.route}")
        response._handler_class = self.__class__  # who has finished, for Django's signal
        if isinstance(response, FileResponse):
            response.block_size = FILE_CHUNK_BYTES
        if not response.streaming:
            response.close()
        answer: HttpResponseBase = response
        return answer

    async def read_body(self, receive: Any) -> IO[bytes]:
        """Collect a request's body.

        Raises:
            RequestAborted: the client left before its end.
        """
        body: IO[bytes] = tempfile.SpooledTemporaryFile(  # noqa: SIM115 - the request closes it
            BODY_IN_MEMORY_BYTES, dir=str(settings.FILE_UPLOAD_TEMP_DIR)
        )
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                body.close()
                raise RequestAborted
            if chunk := message.get("body"):
                body.write(chunk)
            if not message.get("more_body", False):
                body.seek(0)
                return body

    async def _has_thread_by(self, seconds: float) -> bool:
        if not self._free.locked():
            return await self._free.acquire()
        try:
            async with asyncio.timeout(seconds):
                return await self._free.acquire()
        except TimeoutError:
            return False

    async def _stream(
        self, response: StreamingHttpResponse, context: Context, send: Send, leaving: asyncio.Future[None]
    ) -> None:
        """Send a response part by part, each read when the one before is taken; stop when the client leaves."""
        head = response.headers.items()
        cookies = [("Set-Cookie", each.output(header="").strip()) for each in response.cookies.values()]
        headers = [(name.encode("ascii"), value.encode("latin-1")) for name, value in [*head, *cookies]]
        await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
        async with aclosing(self._parts(response, context)) as parts:
            async for part in parts:
                if leaving.done():
                    return
                await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body"})

    async def _parts(self, response: StreamingHttpResponse, context: Context) -> AsyncGenerator[bytes]:
        if response.is_async:
            async for part in response:
                yield part
            return
        parts = cast("Iterator[bytes]", response.streaming_content)
        while (part := await _run(self._files, context, next, parts, None)) is not None:
            yield part


async def _run(executor: Executor, context: Context, function: Callable[..., T], *arguments: Any) -> T:
    return await asyncio.get_running_loop().run_in_executor(executor, context.run, function, *arguments)


def _busy() -> HttpResponseBase:
    response = problem(HttpRequest(), HTTPStatus.SERVICE_UNAVAILABLE, "The server is busy. Try again shortly.")
    response["Retry-After"] = str(DATABASE_AWAY_SECONDS)
    return response
