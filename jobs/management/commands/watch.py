import sys
from typing import Any
from uuid import UUID

from django.core.management.base import BaseCommand, CommandError, CommandParser

from jobs.management import terminal
from jobs.models import Job


class Command(BaseCommand):
    """Shows a job until it is done."""

    help = (
        "Show a job's progress and log until it is done, then its result. Exits with 0 if it completed, else with 1."
        " Ctrl-C leaves the job alone."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("job", type=UUID, help="the job's id")
        parser.add_argument("--json", action="store_true", help="print the whole job at the end, not its result only")

    def handle(self, *_args: Any, **options: Any) -> None:
        try:
            job = terminal.show(options["job"])
        except Job.DoesNotExist:
            raise CommandError(f"There is no job {options['job']}; it may have been removed.", returncode=2) from None
        sys.exit(terminal.end(job, self.stdout, as_json=options["json"]))
