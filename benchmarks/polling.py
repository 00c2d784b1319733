"""How many status polls a second are answered, beside a minimal DRF view of the same row.

    python -m benchmarks.polling [--database sqlite|postgresql] [--seconds 3] [--connections 16] [--rounds 5]

Kabar checks a token and who may see the job, and answers with an ETag; the minimal view does none of it. Both run under
the same server, each in one process, with the psycopg pool on PostgreSQL.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from uuid import uuid4

from benchmarks import rounds
from benchmarks.rounds import Contender, Failed
from benchmarks.stack import servers

FRESH, KNOWN, MINIMAL = "Kabar, 200", "Kabar, 304", "minimal DRF view, 200"
WARM_UP_SECONDS = 0.5


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

    def pace(self, poll: Poll) -> float:
        """Give the answers a second; each must have the right status."""
        return self.loop.run(self._pace(poll))

    async def _pace(self, poll: Poll) -> float:
        begun = time.monotonic()
        counts = await asyncio.gather(*(_keep_asking(poll, begun + self.seconds) for _ in range(self.connections)))
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


def polls(port: int, peer_port: int) -> tuple[Poll, str]:
    """Make a running job, and give the poll of it and the path at which the minimal view has it."""
    from django.contrib.auth import get_user_model

    from jobs import lifecycle
    from jobs.credentials import create_token
    from jobs.kinds import get_kind
    from jobs.lifecycle import Submission

    owner = get_user_model().objects.create_user("benchmark")
    kind = get_kind("bench.noop")
    lifecycle.accept([Submission(kind=kind, owner_id=owner.pk)])
    (job,) = lifecycle.claim(kind.queue, uuid4())
    headers = {"Authorization": f"Bearer {create_token(owner, 'benchmark')}"}
    poll = Poll(port=port, path=f"/api/jobs/status/{job.id}", headers=headers, status=HTTPStatus.OK)
    return poll, f"/minimal/{job.id}"


def main() -> int:
    """Measure and print."""
    parser = rounds.parser(__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--connections", type=int, default=16)
    options = parser.parse_args()
    with (
        servers(options.database, kabar=["web"], peers=["minimal_django"]) as running,
        asyncio.Runner() as loop,
    ):
        fresh, path = polls(running.port, running.peer_port)
        minimal = Poll(port=running.peer_port, path=path, headers={}, status=HTTPStatus.OK)
        warm = Pollsters(loop=loop, connections=options.connections, seconds=WARM_UP_SECONDS)
        ours, theirs = warm.once(fresh), warm.once(minimal)
        if json.loads(ours.body)["jobId"] != json.loads(theirs.body)["id"]:
            raise Failed("the two sides do not answer with the same job")
        known = Poll(
            port=fresh.port,
            path=fresh.path,
            headers={**fresh.headers, "If-None-Match": ours.headers["etag"]},
            status=HTTPStatus.NOT_MODIFIED,
        )
        for poll in (fresh, known, minimal):
            warm.pace(poll)
        rounds.print_machine(
            {
                "database": options.database,
                "connections": options.connections,
                "seconds each": options.seconds,
                "body bytes": f"{len(ours.body)} and {len(theirs.body)}",
            }
        )
        pollsters = Pollsters(loop=loop, connections=options.connections, seconds=options.seconds)
        comparison = rounds.compare(
            "Status polls",
            "answers/s",
            [
                Contender(name=FRESH, measure=lambda: pollsters.pace(fresh)),
                Contender(name=KNOWN, measure=lambda: pollsters.pace(known)),
                Contender(name=MINIMAL, measure=lambda: pollsters.pace(minimal)),
            ],
            options.rounds,
        )
        comparison.print(FRESH, beside=[MINIMAL])
        comparison.print_ratio(KNOWN, MINIMAL)
    return 0


if __name__ == "__main__":
    sys.exit(main())
