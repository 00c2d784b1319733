from __future__ import annotations

import mimetypes
import re
import sys
from collections.abc import Iterable
from contextlib import ExitStack
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

from django.contrib.auth import get_user_model
from django.core.files.uploadedfile import UploadedFile
from django.core.management.base import BaseCommand, CommandError, CommandParser
from rest_framework.exceptions import ParseError, ValidationError

from jobs import doorbell, wakeup
from jobs.api.errors import problem_response
from jobs.api.parsers import check_storable, read_json
from jobs.api.submission import Accepted, accept_submission, receipt
from jobs.management import terminal

if TYPE_CHECKING:
    from django.contrib.auth.models import User

PARAM = re.compile(r"([^=:]+)(:?=)(.*)", re.DOTALL)
TELL_SECONDS = 2.0
"""How long the command waits for the broker to take the bell; the job is kept in any case."""
WRONG = 2
"""The exit code where the command line or the submission is wrong."""

ENVELOPE: tuple[tuple[str, str, type, str], ...] = (
    ("--priority", "priority", int, "-100 to 100; larger is sooner"),
    ("--run-at", "runAt", str, "not before this time, such as 2026-11-24T12:00:00Z"),
    ("--max-attempts", "maxAttempts", int, "how many attempts may be begun"),
    ("--timeout", "timeout", int, "seconds for one attempt"),
    ("--start-within", "startWithin", int, "seconds; not begun by then, it fails"),
    ("--deadline", "deadline", int, "seconds for the whole job"),
    ("--unique-key", "uniqueKey", str, "at most one unfinished job of this kind and key"),
    ("--on-conflict", "onConflict", str, "return, reject or replace the job that has the unique key"),
    ("--callback-url", "callbackUrl", str, "gets a signed POST at the end"),
    ("--team", "team", str, "whose members may see the job"),
)
"""Each option, its name in the contract, its type, and what it means."""


class Command(BaseCommand):
    """Submits a job, by the same checks as the API's."""

    help = (
        "Submit a job and print its id. Params are key=text or, where they are no text, key:=JSON."
        " Exits with 2 where the submission is wrong; with --wait, 0 if the job completed and 1 if not."
    )

    def create_parser(self, *args: Any, **kwargs: Any) -> CommandParser:
        parser = super().create_parser(*args, **kwargs)
        parser.parse_args = parser.parse_intermixed_args  # type: ignore[method-assign]  # options may stand among params
        return parser

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("kind", help="what to run; manage.py kinds lists them")
        parser.add_argument("params", nargs="*", metavar="key=value", help="key=text, or key:=JSON: days:='[1, 2]'")
        parser.add_argument("--file", action="append", default=[], metavar="key=path", help="a file parameter")
        parser.add_argument("--user", help="whose job it is; the only superuser if left out")
        parser.add_argument("--wait", action="store_true", help="show its progress until it is done, print its result")
        parser.add_argument("--json", action="store_true", help="print the receipt or, with --wait, the whole job")
        parser.add_argument("--idempotency-key", help="the same key and submission within 24 h makes one job")
        parser.add_argument("--tag", action="append", dest="tags", help="may be repeated")
        for name, dest, kind, text in ENVELOPE:
            parser.add_argument(name, dest=dest, type=kind, help=text)

    def handle(self, *_args: Any, **options: Any) -> None:
        owner = self._owner(options["user"])
        with ExitStack() as files:
            try:
                body = {"kind": options["kind"], "params": _params(options["params"])}
                body |= {name: options[name] for _, name, _, _ in ENVELOPE if options[name] is not None}
                if options["tags"]:
                    body["tags"] = options["tags"]
                check_storable(body)
                parts = {name: files.enter_context(_open(path)) for name, path in _pairs(options["file"])}
                accepted = accept_submission(owner.pk, body, parts, options["idempotency_key"])
            except CommandError:
                raise
            except Exception as error:
                self._refuse(error)
        self._tell(accepted)
        if options["wait"]:
            sys.exit(terminal.end(terminal.show(accepted.job.pk), self.stdout, as_json=options["json"]))
        self.stdout.write(terminal.to_json(receipt(accepted)) if options["json"] else str(accepted.job.pk))

    def _owner(self, name: str | None) -> User:
        """Find whose job it shall be."""
        users = get_user_model().objects.filter(is_active=True)
        if name is not None:
            found = users.filter(username=name).first()
            if found is None:
                raise CommandError(f"There is no active user {name!r}.", returncode=WRONG)
            return found
        candidates = list(users.filter(is_superuser=True)[:2])
        if len(candidates) != 1:
            many = "more than one superuser" if candidates else "no superuser"
            raise CommandError(f"There is {many}; say by --user NAME whose job it is.", returncode=WRONG)
        return candidates[0]

    def _refuse(self, error: Exception) -> None:
        """Say what is wrong, a line for each field, and end; what is no fault of the submission passes."""
        answer = problem_response(error, {})
        if answer is None:
            raise error
        faults = [f"{_place(each['pointer'])}{each['detail']}" for each in answer.data["errors"]]
        for line in faults or [answer.data["detail"]]:
            terminal.tell(line)
        sys.exit(WRONG if answer.status_code < HTTPStatus.INTERNAL_SERVER_ERROR else 1)

    def _tell(self, accepted: Accepted) -> None:
        """Have workers and pages hear of the job before the process ends."""
        if accepted.is_standing or accepted.is_replay:
            terminal.tell("No new job: this one was submitted before.")
        doorbell.flush(TELL_SECONDS)
        wakeup.flush(TELL_SECONDS)


def _params(given: Iterable[str]) -> dict[str, Any]:
    params: dict[str, Any] = {}
    for each in given:
        match = PARAM.fullmatch(each)
        if match is None:
            raise CommandError(f"{each!r} is no param; write key=text or key:=JSON.", returncode=WRONG)
        name, separator, value = match.groups()
        if name in params:
            raise CommandError(f"{name} is given twice; write a list as {name}:='[…]'.", returncode=WRONG)
        params[name] = _json(name, value) if separator == ":=" else value
    return params


def _json(name: str, text: str) -> Any:
    try:
        return read_json(text)
    except ValidationError as error:
        raise ValidationError({"params": {name: error.detail}}) from error
    except ParseError as error:
        raise CommandError(f"{name}: {text!r} is no JSON; write text as {name}=text.", returncode=WRONG) from error


def _pairs(given: Iterable[str]) -> Iterable[tuple[str, Path]]:
    for each in given:
        name, separator, path = each.partition("=")
        if not separator:
            raise CommandError(f"--file {each!r} names no parameter; write --file key=path.", returncode=WRONG)
        yield name, Path(path)


def _open(path: Path) -> UploadedFile[Any]:
    try:
        stream = path.open("rb")
    except OSError as error:
        raise CommandError(f"{path} can't be read: {error.strerror}.", returncode=WRONG) from error
    return UploadedFile(stream, path.name, mimetypes.guess_type(path.name)[0], path.stat().st_size)


def _place(pointer: str) -> str:
    """Write where a fault is as the command line names it: `params.names.0`, as `names.0`."""
    parts = [each.replace("~1", "/").replace("~0", "~") for each in pointer.split("/")[1:]]
    if parts[:1] == ["params"] and len(parts) > 1:
        parts = parts[1:]
    return f"{'.'.join(parts)}: " if parts else ""
