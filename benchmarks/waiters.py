"""How soon clients that wait for a job by `?wait=` hear of its end, and what they cost while they wait.

    python -m benchmarks.waiters [--database sqlite|postgresql] [--clients 500] [--rounds 5]

All wait for the same job at one web process. Besides, a fifth as many come and go again without a word. Threads,
database connections and sockets of the web process are counted before, while all wait, and afterwards.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from benchmarks import rounds
from benchmarks.rounds import Failed, percentile
from benchmarks.stack import servers

if TYPE_CHECKING:
    from jobs.models import Job

WAIT_SECONDS = 30
QUIET_SECONDS = 0.5
"""A web process that has done nothing for so long has heard everybody."""
SETTLE_SECONDS = 20.0
TICK_SECONDS = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, kw_only=True)
class Held:
    """What a web process holds."""

    threads: int
    connections: int
    """To the database."""
    sockets: int


@dataclass(frozen=True, kw_only=True)
class Round:
    """What came of one round."""

    seconds: Sequence[float]
    """From right before the commit until each client had its answer."""
    before: Held
    waiting: Held
    after: Held


def held_by(pid: int) -> Held:
    """Count what a web process holds."""
    from django.db import connection

    files = [_target(each) for each in Path(f"/proc/{pid}/fd").iterdir()]
    if connection.vendor == "sqlite":
        name = Path(str(connection.settings_dict["NAME"])).name
        connections = sum(each.endswith(name) for each in files)
    else:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            (connections,) = cursor.fetchone()
    sockets = sum(each.startswith("socket:") for each in files)
    return Held(threads=len(os.listdir(f"/proc/{pid}/task")), connections=connections, sockets=sockets)


def _target(link: Path) -> str:
    try:
        return os.readlink(link)
    except FileNotFoundError:  # it was closed meanwhile
        return ""


async def is_quiet(pid: int) -> None:
    """Wait until a process has nothing to do.

    Raises:
        Failed: it is busy all the time.
    """
    end = time.monotonic() + SETTLE_SECONDS
    last = -1.0
    while (now := _processor_seconds(pid)) - last > 2 * TICK_SECONDS:
        if time.monotonic() > end:
            raise Failed("the web process doesn't come to rest")
        last = now
        await asyncio.sleep(QUIET_SECONDS)


def _processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK_SECONDS


def new_job() -> tuple[Job, bytes]:
    """Make a running job, and give it with the request of somebody who waits for its end."""
    from django.contrib.auth import get_user_model

    from jobs import lifecycle
    from jobs.credentials import create_token
    from jobs.kinds import get_kind
    from jobs.lifecycle import Submission

    owner, _ = get_user_model().objects.get_or_create(username="waiter")
    kind = get_kind("bench.noop")
    lifecycle.accept([Submission(kind=kind, owner_id=owner.pk)])
    (job,) = lifecycle.claim(kind.queue, uuid4())
    request = (
        f"GET /api/jobs/status/{job.id}?wait={WAIT_SECONDS} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        f"Authorization: Bearer {create_token(owner, 'waiter')}\r\n\r\n"
    )
    return job, request.encode()


async def wait_for_end(port: int, request: bytes) -> float:
    """Wait for the job, and give the moment of the answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    body = await reader.readexactly(int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0]))
    moment = time.monotonic()
    writer.close()
    if (status := json.loads(body).get("status")) != "COMPLETED":
        raise Failed(f"a client was told {status}")
    return moment


async def come_and_go(port: int, request: bytes) -> None:
    """Ask, and leave without a word while the answer is held."""
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    await writer.drain()
    await asyncio.sleep(1)
    writer.transport.abort()


async def one_round(port: int, pid: int, clients: int) -> Round:
    """Let all wait, end the job, and collect."""
    from jobs import lifecycle
    from jobs.lifecycle import Outcome

    # In this thread, for a short while: nobody is answered meanwhile.
    job, request = new_job()
    await is_quiet(pid)
    before = held_by(pid)
    leaving = [asyncio.create_task(come_and_go(port, request)) for _ in range(clients // 5)]
    waiting = [asyncio.create_task(wait_for_end(port, request)) for _ in range(clients)]
    await asyncio.gather(*leaving)
    await is_quiet(pid)
    while_waiting = held_by(pid)
    if any(each.done() for each in waiting):
        raise Failed("a client was answered before the end")
    begun = time.monotonic()
    await asyncio.to_thread(lifecycle.finish, [Outcome(job=job)])
    seconds = [each - begun for each in await asyncio.gather(*waiting)]
    await is_quiet(pid)
    return Round(seconds=seconds, before=before, waiting=while_waiting, after=held_by(pid))


def main() -> int:
    """Measure and print."""
    parser = rounds.parser(__doc__)
    parser.add_argument("--clients", type=int, default=500)
    options = parser.parse_args()
    with servers(options.database, kabar=["web"]) as running, asyncio.Runner() as loop:
        pid = running.kabar.pid("web")
        assert pid is not None
        os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "1"  # one thing after another, in one thread
        loop.run(one_round(running.port, pid, 20))  # its threads and connections are made now
        rounds.print_machine({"database": options.database, "clients": options.clients})
        print(f"\n{options.clients} clients wait for one job; milliseconds from its commit to their answers")
        for number in range(options.rounds):
            measured = loop.run(one_round(running.port, pid, options.clients))
            middle, late, last = (1000 * percentile(measured.seconds, each) for each in (50, 99, 100))
            print(f"round {number + 1}: p50 {middle:.0f}, p99 {late:.0f}, last {last:.0f}")
            for name in ("threads", "connections", "sockets"):
                before, waiting, after = (
                    getattr(each, name) for each in (measured.before, measured.waiting, measured.after)
                )
                print(f"  {name:<12} before {before}, while all wait {waiting}, afterwards {after}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
