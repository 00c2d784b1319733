from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from jobs import doorbell, queues

RING_SECONDS = 2.0


class Command(BaseCommand):
    """Resumes a queue."""

    help = "Have workers claim from a paused queue again."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("queue", help="the queue's name, such as default")

    def handle(self, *_args: Any, **options: Any) -> None:
        was_paused = queues.resume(options["queue"])
        doorbell.flush(RING_SECONDS)
        self.stdout.write(f"{options['queue']} {'is resumed' if was_paused else 'was not paused'}.")
