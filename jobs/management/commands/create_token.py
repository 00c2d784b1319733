from typing import Any

from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand, CommandError, CommandParser

from jobs.credentials import create_token


class Command(BaseCommand):
    """Prints a new token of a user."""

    help = "Make a bearer token for a user and print it, once: only its digest is kept."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("user", help="the user's name")
        parser.add_argument("--name", default="command line", help="where the token is used, for people")

    def handle(self, *_args: Any, **options: Any) -> None:
        users = get_user_model()
        try:
            user = users.objects.get_by_natural_key(options["user"])
        except users.DoesNotExist:
            raise CommandError(
                f"There is no user {options['user']!r}; make one with manage.py createsuperuser."
            ) from None
        self.stdout.write(create_token(user, options["name"]))
