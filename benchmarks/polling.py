"""How many status polls a second are answered, beside a minimal DRF view of the same row.

    python -m benchmarks.polling [--database sqlite|postgresql] [--seconds 2] [--connections 16] [--rounds 5]

Kabar checks a token and who may see the job, and answers with an ETag; the minimal view does none of it. Both run under
the same server, each in one process, the minimal view on Django's own ASGI handler with the psycopg pool on PostgreSQL.
Each connection asks for a job of its own. "In DRF alone" are polls with `Accept-Language`: those are left to the view.

At the end one poller asks beside commits, and none of its answers may be older than its question.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from http import HTTPStatus
from threading import Event, Thread
from uuid import uuid4

from benchmarks import rounds
from benchmarks.rounds import Contender, Failed
from benchmarks.stack import servers

WARM_UP_SECONDS = 0.5
MINIMAL = "minimal DRF view"
FRESH, KNOWN, NEW, IN_DRF, KNOWN_IN_DRF = (
    "Kabar, 200",
    "Kabar, 304",
    "Kabar, 200, always a new version",
    "Kabar in DRF alone, 200",
    "Kabar in DRF alone, 304",
)
PAST_THE_LAYER = {"Accept-Language": "en"}
COMMITS = 3000


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came to a request."""

    status: int
    headers: Mapping[str, str]
    """By their names in lower case."""
    body: bytes


@dataclass(frozen=True, kw_only=True)
class Poll:
    """One request, sent again and again."""

    port: int
    path: str
    headers: Mapping[str, str]
    status: HTTPStatus
    """The answer that is right."""

    def as_bytes(self) -> bytes:
        """Write the request."""
        lines = [f"GET {self.path} HTTP/1.1", f"Host: 127.0.0.1:{self.port}", "Accept: application/json"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        return "\r\n".join([*lines, "", ""]).encode()


@dataclass(frozen=True, kw_only=True)
class Pollsters:
    """Some connections that each ask as soon as they are answered."""

    loop: asyncio.Runner
    connections: int
    seconds: float

    def once(self, poll: Poll) -> Answer:
        """Ask once."""
        return self.loop.run(_ask(poll))

    def pace(self, polls: Sequence[Poll]) -> float:
        """Give the answers a second; each must have the right status.

        Args:
            polls: a connection's each, taken in turn.
        """
        return self.loop.run(self._pace(polls))

    async def _pace(self, polls: Sequence[Poll]) -> float:
        begun = time.monotonic()
        asking = [_keep_asking(polls[each % len(polls)], begun + self.seconds) for each in range(self.connections)]
        counts = await asyncio.gather(*asking)
        return sum(counts) / (time.monotonic() - begun)


async def _ask(poll: Poll) -> Answer:
    reader, writer = await asyncio.open_connection("127.0.0.1", poll.port)
    writer.write(poll.as_bytes())
    answer = await _read_answer(reader)
    writer.close()
    return answer


async def _keep_asking(poll: Poll, end: float) -> int:
    reader, writer = await asyncio.open_connection("127.0.0.1", poll.port)
    request, count = poll.as_bytes(), 0
    while time.monotonic() < end:
        writer.write(request)
        answer = await _read_answer(reader)
        if answer.status != poll.status:
            raise Failed(f"{poll.path} answered {answer.status}, not {poll.status:d}: {answer.body[:200]!r}")
        count += 1
    writer.close()
    return count


async def _read_answer(reader: asyncio.StreamReader) -> Answer:
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
    status = int(first.split(" ")[1])
    has_body = status not in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED)
    body = await reader.readexactly(int(headers["content-length"])) if has_body else b""
    return Answer(status=status, headers=headers, body=body)


def made_polls(port: int, count: int) -> list[Poll]:
    """Make running jobs, each of a user of its own, and give the poll of each."""
    from django.contrib.auth import get_user_model

    from jobs import lifecycle
    from jobs.credentials import create_token
    from jobs.kinds import get_kind
    from jobs.lifecycle import Submission

    kind = get_kind("bench.noop")
    polls = []
    for number in range(count):
        owner = get_user_model().objects.create_user(f"benchmark{number}")
        lifecycle.accept([Submission(kind=kind, owner_id=owner.pk)])
        (job,) = lifecycle.claim(kind.queue, uuid4())
        headers = {"Authorization": f"Bearer {create_token(owner, 'benchmark')}"}
        polls.append(Poll(port=port, path=f"/api/jobs/status/{job.id}", headers=headers, status=HTTPStatus.OK))
    return polls


def minimal_of(poll: Poll, peer_port: int) -> Poll:
    """Give the poll of the same job at the minimal view."""
    job_id = poll.path.rpartition("/")[2]
    return Poll(port=peer_port, path=f"/minimal/{job_id}", headers={}, status=HTTPStatus.OK)


def known_of(poll: Poll, etag: str) -> Poll:
    """Give the same poll by somebody who has that version."""
    return replace(poll, headers={**poll.headers, "If-None-Match": etag}, status=HTTPStatus.NOT_MODIFIED)


def new_versions(pollsters: Pollsters, polls: Sequence[Poll]) -> float:
    """Poll while each job's version rises all the time: more often than it is asked for."""
    from django.db import connection
    from django.db.models import F

    from jobs.models import Job

    is_over = Event()

    def keep_raising() -> None:
        while not is_over.wait(0.005):
            Job.objects.update(version=F("version") + 1)
        connection.close()

    raising = Thread(target=keep_raising)
    raising.start()
    try:
        return pollsters.pace(polls)
    finally:
        is_over.set()
        raising.join()


def stale_answers(pollsters: Pollsters, poll: Poll, commits: int) -> str:
    """Poll one job beside commits, each of which raises its version.

    Raises:
        Failed: an answer was older than the last commit before its question.
    """
    from django.db import connection
    from django.db.models import F

    from jobs.models import Job

    job_id = poll.path.rpartition("/")[2]
    committed = first = Job.objects.values_list("version", flat=True).get(pk=job_id)

    def keep_raising() -> None:
        nonlocal committed
        for _ in range(commits):
            Job.objects.filter(pk=job_id).update(version=F("version") + 1)
            committed += 1
        connection.close()

    async def keep_checking() -> tuple[int, int]:
        reader, writer = await asyncio.open_connection("127.0.0.1", poll.port)
        count, versions = 0, set()
        while committed < first + commits:
            at_least = committed
            writer.write(poll.as_bytes())
            version = json.loads((await _read_answer(reader)).body)["version"]
            if version < at_least:
                raise Failed(f"version {version} was answered after {at_least} was committed")
            count += 1
            versions.add(version)
        writer.close()
        return count, len(versions)

    raising = Thread(target=keep_raising)
    raising.start()
    count, seen = pollsters.loop.run(keep_checking())
    raising.join()
    return f"{count:,} polls beside {commits:,} commits saw {seen:,} versions, and none was stale"


def measure(pollsters: Pollsters, polls: Sequence[Poll], peer_port: int, number: int) -> None:
    """Compare all ways to ask, and print it."""
    minimal = [minimal_of(each, peer_port) for each in polls]
    in_drf = [replace(each, headers={**each.headers, **PAST_THE_LAYER}) for each in polls]

    def known(polls: Sequence[Poll]) -> list[Poll]:
        return [known_of(each, pollsters.once(each).headers["etag"]) for each in polls]

    contenders = {
        FRESH: lambda: pollsters.pace(polls),
        KNOWN: lambda: pollsters.pace(known(polls)),
        NEW: lambda: new_versions(pollsters, polls),
        IN_DRF: lambda: pollsters.pace(in_drf),
        KNOWN_IN_DRF: lambda: pollsters.pace(known(in_drf)),
        MINIMAL: lambda: pollsters.pace(minimal),
    }
    what = f"Status polls, {pollsters.connections} connection{'s' if pollsters.connections > 1 else ''}"
    comparison = rounds.compare(
        what, "answers/s", [Contender(name=name, measure=each) for name, each in contenders.items()], number
    )
    comparison.print(FRESH, beside=[MINIMAL])
    for name in (KNOWN, NEW, IN_DRF, KNOWN_IN_DRF):
        comparison.print_ratio(name, MINIMAL)


def main() -> int:
    """Measure and print."""
    parser = rounds.parser(__doc__)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument("--connections", type=int, default=16)
    options = parser.parse_args()
    with (
        servers(options.database, kabar=["web"], peers=["minimal_django"]) as running,
        asyncio.Runner() as loop,
    ):
        polls = made_polls(running.port, options.connections)
        warm = Pollsters(loop=loop, connections=options.connections, seconds=WARM_UP_SECONDS)
        ours, theirs = warm.once(polls[0]), warm.once(minimal_of(polls[0], running.peer_port))
        if json.loads(ours.body)["jobId"] != json.loads(theirs.body)["id"]:
            raise Failed("the two sides do not answer with the same job")
        for each in (polls, [minimal_of(poll, running.peer_port) for poll in polls]):
            warm.pace(each)
        rounds.print_machine(
            {
                "database": options.database,
                "seconds each": options.seconds,
                "body bytes": f"{len(ours.body)} and {len(theirs.body)}",
            }
        )
        for connections in (options.connections, 1):
            pollsters = Pollsters(loop=loop, connections=connections, seconds=options.seconds)
            measure(pollsters, polls, running.peer_port, options.rounds)
        print(stale_answers(warm, polls[0], COMMITS))
    return 0


if __name__ == "__main__":
    sys.exit(main())
