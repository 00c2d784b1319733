import re
from argparse import ArgumentTypeError
from datetime import timedelta
from typing import Any

from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from jobs.credentials import make_token
from jobs.models import GRANTABLE, Scope

UNITS = {"m": "minutes", "h": "hours", "d": "days"}


class Command(BaseCommand):
    """Prints a new token of a user."""

    help = "Make a bearer token for a user and print it, once: only its digest is kept."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("user", help="the user's name")
        parser.add_argument("--name", default="command line", help="where the token is used, for people")
        parser.add_argument(
            "--scope",
            action="append",
            default=[],
            choices=[each.value for each in GRANTABLE],
            help="what it may be used for; may be repeated, all if left out",
        )
        parser.add_argument(
            "--expires",
            type=_length,
            metavar="TIME",
            help="how long it is good, such as 90d, 12h or 30m; for ever if not said",
        )

    def handle(self, *_args: Any, **options: Any) -> None:
        users = get_user_model()
        try:
            user = users.objects.get_by_natural_key(options["user"])
        except users.DoesNotExist:
            raise CommandError(
                f"There is no user {options['user']!r}; make one with manage.py createsuperuser."
            ) from None
        scopes = [Scope(each) for each in dict.fromkeys(options["scope"])]
        expires_at = timezone.now() + options["expires"] if options["expires"] else None
        self.stdout.write(make_token(user, options["name"], scopes=scopes, expires_at=expires_at).text)


def _length(text: str) -> timedelta:
    """Read a length of time.

    Raises:
        ArgumentTypeError: it isn't one.
    """
    match = re.fullmatch(r"([1-9]\d{0,4})([mhd])", text)
    if match is None:
        raise ArgumentTypeError(f"{text!r} is no length of time; write it like 90d, 12h or 30m.")
    return timedelta(**{UNITS[match[2]]: int(match[1])})
