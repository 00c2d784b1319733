"""The side that makes news for `benchmarks.push`, in a process of its own: `python -m benchmarks.publisher <user id>`.

It prints the id of a running job, then reads one line an event, `kabar` or `bare <bytes>`, and answers each with the
monotonic time (the whole machine's) at which the event was committed or, without a database, handed to the layer.
"""

from __future__ import annotations

import asyncio
import sys
import time
from uuid import uuid4

import config.celery  # noqa: F401 - the app whose bells `accept` rings


def main() -> None:
    """Serve lines until stdin ends."""
    import django

    django.setup()
    from channels.layers import get_channel_layer
    from django.db import transaction
    from django.utils import timezone

    from benchmarks.peers.bare_channels import GROUP
    from jobs import lifecycle
    from jobs.kinds import get_kind
    from jobs.lifecycle import Beat, Submission

    kind = get_kind("bench.noop")
    lifecycle.accept([Submission(kind=kind, owner_id=int(sys.argv[1]))])
    (job,) = lifecycle.claim(kind.queue, uuid4())
    print(job.id, flush=True)
    layer = get_channel_layer()

    def say_time() -> None:
        print(time.monotonic(), flush=True)

    with asyncio.Runner() as kept_loop:
        for line in sys.stdin:
            match line.split():
                case ["kabar"]:
                    with transaction.atomic():
                        transaction.on_commit(say_time)  # the first after the commit, before the wake-up
                        text = {"level": "info", "message": "Something has happened, and everybody is to know."}
                        lifecycle.beat([Beat(job=job, lines=[text], moments=[timezone.now()])])
                case ["bare", size]:
                    text_of_size = '{"type":"event","event":"' + "x" * (int(size) - 27) + '"}'
                    say_time()
                    kept_loop.run(layer.group_send(GROUP, {"type": "news", "text": text_of_size}))
                case _:
                    raise ValueError(line)


if __name__ == "__main__":
    main()
