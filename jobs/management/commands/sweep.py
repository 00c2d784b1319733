import signal
from typing import Any

from django.core.management.base import BaseCommand

from jobs.sweeper.loop import Sweeper


class Command(BaseCommand):
    """Runs the sweeper until SIGTERM or Ctrl-C."""

    help = "Find again what crashes and lost messages left behind, every second, until stopped. Run one or more."

    def handle(self, *_args: Any, **_options: Any) -> None:
        sweeper = Sweeper()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: sweeper.stop())
        self.stdout.write("Sweeping.")
        sweeper.run()
