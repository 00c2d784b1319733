from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from jobs import queues


class Command(BaseCommand):
    """Pauses a queue."""

    help = "Have workers claim nothing more of a queue until manage.py resume_queue. What runs goes on."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("queue", help="the queue's name, such as default")

    def handle(self, *_args: Any, **options: Any) -> None:
        is_new = queues.pause(options["queue"], by="command line")
        self.stdout.write(f"{options['queue']} is {'paused' if is_new else 'paused already'}.")
