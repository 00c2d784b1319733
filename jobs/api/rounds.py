"""Questions answered in rounds: all that wait are asked together, in one thread, after each of them came."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

from django.db import connection

logger = logging.getLogger(__name__)

MOST_IN_A_ROUND = 100
LONGEST_SECONDS = 1.0
"""A round that takes longer is given up; its questions are answered elsewhere."""
PAUSE_SECONDS = 1.0
"""So long after a failure nothing is asked here."""

Question = TypeVar("Question")
Answer = TypeVar("Answer")


class Rounds(Generic[Question, Answer]):
    """Collects questions on the event loop while those before them are answered.

    Args:
        answer: gives as many answers as it is given questions, None for one it has no answer to. It runs in a thread
            that keeps its database connection, never twice at once.
    """

    def __init__(self, answer: Callable[[Sequence[Question]], Sequence[Answer | None]]) -> None:
        self._answer = answer
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="polls")
        self._waiting: list[tuple[Question, asyncio.Future[Answer | None]]] = []
        self._going: asyncio.Task[None] | None = None
        self._not_before = 0.0

    async def ask(self, question: Question) -> Answer | None:
        """Wait for an answer; None where there is none, and at once where the database doesn't answer."""
        if time.monotonic() < self._not_before:
            return None
        coming: asyncio.Future[Answer | None] = asyncio.get_running_loop().create_future()
        self._waiting.append((question, coming))
        if self._going is None:
            self._going = asyncio.create_task(self._go(), name="polls")
        return await coming

    async def _go(self) -> None:
        """Go round until nobody waits."""
        try:
            while self._waiting:
                taken, self._waiting = self._waiting[:MOST_IN_A_ROUND], self._waiting[MOST_IN_A_ROUND:]
                looking = asyncio.get_running_loop().run_in_executor(
                    self._thread, self._answer_or_reconnect, [question for question, _ in taken]
                )
                await asyncio.wait({looking}, timeout=LONGEST_SECONDS)
                answers = looking.result() if looking.done() else None
                settle(taken, answers or [None] * len(taken))
                if answers is None:
                    self._not_before = float("inf")  # until the thread is back
                    settle(self._waiting, [None] * len(self._waiting))
                    self._waiting = []
                    await looking
                    self._not_before = time.monotonic() + PAUSE_SECONDS
        finally:
            self._going = None

    def _answer_or_reconnect(self, questions: Sequence[Question]) -> Sequence[Answer | None] | None:
        try:
            return self._answer(questions)
        except Exception as error:
            logger.warning("Polls can't be answered in front of Django (%s)", type(error).__name__)
            connection.close()
            return None


def settle(taken: Sequence[tuple[Question, asyncio.Future[Answer | None]]], answers: Sequence[Answer | None]) -> None:
    """Give those who still wait their answers."""
    for (_, coming), answer in zip(taken, answers, strict=True):
        if not coming.done():
            coming.set_result(answer)
