"""How fast batches of a thousand jobs are taken in over HTTP, every job checked, by one web process.

    python -m benchmarks.batches [--database sqlite|postgresql] [--rounds 5]

Each job has params that its kind's serializer checks, metadata, tags and a unique key of its own, about 250 bytes; each
batch is one POST, answered by a thousand receipts once all is committed. Beside it the same jobs in a request each. The
client runs on the same machine; its bodies are written before the clock starts. No worker runs.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from io import BytesIO
from typing import Any

from benchmarks import rounds
from benchmarks.rounds import Contender, Failed
from benchmarks.stack import servers

BATCH = 1000
PARTED_BATCHES = 20
ONE, SEVERAL, SINGLE = "batches by one connection", "batches by {} connections", "a request a job, {} connections"
WARM_UP_BATCHES = 3


def job_bodies(first: int, count: int) -> list[dict[str, Any]]:
    """Make submissions that differ as those of an importer do."""
    return [
        {
            "kind": "demo.countdown",
            "params": {"seconds": number % 100 / 10, "steps": number % 50 + 1},
            "priority": 5,
            "timeout": 120,
            "uniqueKey": f"row-{number}",
            "tags": ["import", f"page-{number % 7}"],
            "metadata": {"row": number, "file": "orders-2026-11.csv", "customer": f"customer {number % 97}"},
        }
        for number in range(first, first + count)
    ]


@dataclass(kw_only=True)
class Submitters:
    """Some connections that each submit as soon as they are answered."""

    port: int
    token: str
    numbers: int = 0
    """How many jobs were written, so that each has its own."""
    loop: asyncio.Runner = field(default_factory=asyncio.Runner)

    def batches(self, count: int, connections: int) -> float:
        """Submit batches; gives jobs a second."""
        bodies = [json.dumps({"jobs": self._fresh(BATCH)}).encode() for _ in range(count)]
        return count * BATCH / self._seconds("/api/jobs/batch", bodies, connections)

    def singles(self, count: int, connections: int) -> float:
        """Submit the same jobs in a request each; gives jobs a second."""
        bodies = [json.dumps(each).encode() for each in self._fresh(count)]
        return count / self._seconds("/api/jobs", bodies, connections)

    def _fresh(self, count: int) -> list[dict[str, Any]]:
        self.numbers += count
        return job_bodies(self.numbers - count, count)

    def _seconds(self, path: str, bodies: Sequence[bytes], connections: int) -> float:
        left = iter(bodies)

        async def submit() -> None:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            for body in left:
                head = (
                    f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nAuthorization: Bearer {self.token}\r\n"
                    f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
                )
                writer.write(head.encode() + body)
                await self._read(reader)
            writer.close()

        async def run() -> float:
            begun = time.perf_counter()
            await asyncio.gather(*(submit() for _ in range(connections)))
            return time.perf_counter() - begun

        return self.loop.run(run())

    async def _read(self, reader: asyncio.StreamReader) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        length = int(head.partition("content-length:")[2].partition("\r\n")[0])
        body = await reader.readexactly(length)
        if int(head.split(" ")[1]) != HTTPStatus.ACCEPTED:
            raise Failed(f"{head.splitlines()[0]}: {body[:300]!r}")


def check(count: int) -> None:
    """See that each job that was submitted is there, pending, with its first event and its place in a batch or none.

    Raises:
        Failed: one isn't.
    """
    from jobs.models import Event, Job, Status

    rows, events = Job.objects.filter(status=Status.PENDING).count(), Event.objects.filter(sequence=1).count()
    if (rows, events) != (count, count):
        raise Failed(f"{count} jobs were submitted; there are {rows} with {events} first events")


def print_parts(owner_id: int, numbers: int) -> None:
    """Print where the time of a batch goes in the web process: microseconds a job, by part, median of some batches."""
    from django.db import connection
    from rest_framework.renderers import JSONRenderer

    from jobs import lifecycle
    from jobs.api import batches
    from jobs.api.parsers import StrictJSONParser
    from jobs.representation import single_job_as_dict

    parts: dict[str, list[float]] = defaultdict(list)

    def timed(name: str, work: Callable[..., Any], *arguments: Any) -> Any:
        begun = time.perf_counter()
        made = work(*arguments)
        parts[name].append((time.perf_counter() - begun) * 1e6 / BATCH)
        return made

    for place in range(PARTED_BATCHES):
        body = json.dumps({"jobs": job_bodies(numbers + place * BATCH, BATCH)}).encode()
        data = timed("read the JSON strictly", StrictJSONParser().parse, BytesIO(body))
        checked = timed("check each job", batches.check_jobs, owner_id, data["jobs"])
        submissions = [each.submission for each in checked]
        timed("look who holds the unique keys", lifecycle.standing_jobs, submissions)
        promise = "promise them, until it is on the disk"
        batch, jobs = timed(promise, lifecycle.accept_batch, submissions, owner_id)
        shown = timed("show the jobs", lambda some: [single_job_as_dict(job) for job in some], jobs)
        receipts = batches.receipts_of(batches.AcceptedBatch(batch=batch, shown=shown))
        answer = timed("write the receipts as JSON", JSONRenderer().render, receipts)
    print(f"\nWhere the time goes below HTTP, {connection.display_name} (µs a job; p50 and p90 of {PARTED_BATCHES})")
    for name, values in parts.items():
        print(f"  {name:<44}{rounds.percentile(values, 50):>10.1f}{rounds.percentile(values, 90):>10.1f}")
    print(f"  a batch: {len(body):,} bytes in, {len(answer):,} bytes out")


def main() -> int:
    """Measure and print."""
    parser = rounds.parser(__doc__)
    parser.add_argument("--batches", type=int, default=20, help="a round")
    parser.add_argument("--singles", type=int, default=1000, help="requests of one job each, a round")
    parser.add_argument("--connections", type=int, default=3)
    options = parser.parse_args()
    several, single = SEVERAL.format(options.connections), SINGLE.format(options.connections)
    with servers(options.database, kabar=["web"]) as running:
        from django.contrib.auth import get_user_model

        from jobs.credentials import create_token

        owner = get_user_model().objects.create_user("benchmark")
        submitters = Submitters(port=running.port, token=create_token(owner, "benchmark"))
        submitters.batches(WARM_UP_BATCHES, options.connections)
        submitters.singles(100, options.connections)
        rounds.print_machine({"database": options.database, "batches a round": options.batches, "jobs a batch": BATCH})
        compared = rounds.compare(
            "Submission over HTTP",
            "jobs/s",
            [
                Contender(name=ONE, measure=lambda: submitters.batches(options.batches, 1)),
                Contender(name=several, measure=lambda: submitters.batches(options.batches, options.connections)),
                Contender(name=single, measure=lambda: submitters.singles(options.singles, options.connections)),
            ],
            options.rounds,
        )
        check(submitters.numbers)
        compared.print(several, beside=[single])
        print_parts(owner.pk, submitters.numbers)
    return 0


if __name__ == "__main__":
    sys.exit(main())
