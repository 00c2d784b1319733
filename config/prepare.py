"""`python -m config.prepare`: brings the database up to date and, on the first start, makes a user and a token.

Run by `config.run` as a process of its own, so that the supervisor need not carry Django. The last line on stdout is
the first user as JSON, or null where there are users already.
"""

from __future__ import annotations

import io
import json
import os
import secrets
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

NAME = "admin"
TOKEN_FILE = "token"  # noqa: S105 - a file's name


@dataclass(frozen=True, kw_only=True)
class FirstUser:
    """What is shown once, at the first start."""

    name: str
    password: str
    token: str


def main() -> None:
    """Check the settings, migrate, make the first user, and tell of it."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    import django
    from django.core.exceptions import ImproperlyConfigured
    from django.core.management import CommandError, call_command

    try:
        django.setup()
        call_command("check", stdout=io.StringIO())  # warnings go to stderr; errors are raised
        migrate_where_needed()
    except (ImproperlyConfigured, CommandError) as error:
        sys.exit(str(error))
    from django.conf import settings

    user = make_first_user(settings.DATA)
    print(json.dumps(None if user is None else asdict(user)))


def migrate_where_needed() -> None:
    """Run the migrations that the database hasn't seen."""
    from django.core.management import call_command
    from django.db import connection
    from django.db.migrations.executor import MigrationExecutor

    executor = MigrationExecutor(connection)
    if executor.migration_plan(executor.loader.graph.leaf_nodes()):
        call_command("migrate", interactive=False, verbosity=0)


def make_first_user(data: Path) -> FirstUser | None:
    """Make the superuser and its token where there is no user at all, and keep the token.

    Args:
        data: the folder whose file `token`, mode 600, will hold the token.

    Returns:
        What to show, or None where there are users.
    """
    from django.contrib.auth import get_user_model
    from django.db import transaction

    from jobs.credentials import create_token

    users = get_user_model().objects
    if users.exists():
        return None
    password = secrets.token_urlsafe(15)
    # The token's file is written inside the transaction: a user whose token nobody saw is never left behind.
    with transaction.atomic():
        user = users.create_superuser(NAME, password=password)
        token = create_token(user, name="first token")
        _keep(data / TOKEN_FILE, token)
    return FirstUser(name=NAME, password=password, token=token)


def _keep(path: Path, token: str) -> None:
    path.unlink(missing_ok=True)  # one that another database's first user had
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(token + "\n")


if __name__ == "__main__":
    main()
