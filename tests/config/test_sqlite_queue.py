"""The queue of SQLite's writers: who waits goes next, and nobody has the pen who isn't writing."""

from __future__ import annotations

import fcntl
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from django.db import OperationalError, connection, connections, transaction
from pytest_django import DjangoDbBlocker

from config.sqlite.base import DatabaseWrapper
from config.sqlite.turnstile import Turnstile
from tests.servers import ROOT
from tests.waiting import wait_until

OTHER_PROCESS = """
import sys
import config
from django.conf import settings
options = {"transaction_mode": "IMMEDIATE", "timeout": 20}
settings.configure(DATABASES={"default": {"ENGINE": "config.sqlite", "NAME": sys.argv[1], "OPTIONS": options}})
from django.db import connection, transaction
with transaction.atomic(), connection.cursor() as cursor:
    cursor.execute("INSERT INTO entry (who) VALUES (%s)", ["other"])
    print("writes", flush=True)
    sys.stdin.readline()
"""


class OtherProcess:
    """A process that writes a row in a transaction, and commits when it's told to."""

    def __init__(self, database: Path) -> None:
        command = [sys.executable, "-c", OTHER_PROCESS, str(database)]
        self._process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def wait_until_it_writes(self) -> None:
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "writes\n"

    def commit_once_it_writes(self) -> None:
        self.wait_until_it_writes()
        self._process.communicate("\n", timeout=20)
        assert self._process.returncode == 0

    def halt(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, django_db_blocker: DjangoDbBlocker
) -> Generator[Path, None, None]:
    """Make a database with two connections to it, `first` and `second`, and one that knows no queue, `plain`."""
    path = tmp_path / "house.sqlite3"
    options = {"transaction_mode": "IMMEDIATE", "timeout": 20}
    add = {alias: {"ENGINE": "config.sqlite", "NAME": path, "OPTIONS": options} for alias in ("first", "second")}
    add["plain"] = {"ENGINE": "django.db.backends.sqlite3", "NAME": path, "OPTIONS": {**options, "timeout": 0}}
    add["memory"] = {"ENGINE": "config.sqlite", "NAME": "file:memory_of_this?mode=memory&cache=shared"}
    for alias, values in connections.configure_settings({"default": {}, **add}).items():
        if alias in add:
            monkeypatch.setitem(connections.settings, alias, values)
    with django_db_blocker.unblock():
        run("plain", "PRAGMA journal_mode = WAL")
        run("plain", "CREATE TABLE entry (id integer PRIMARY KEY, who text)")
        yield path
        for alias in add:
            connections[alias].close()
            del connections[alias]


@pytest.fixture
def other_process(database: Path) -> Generator[OtherProcess, None, None]:
    process = OtherProcess(database)
    yield process
    process.kill()


def run(alias: str, statement: str, *params: str) -> list[Any]:
    with connections[alias].cursor() as cursor:
        cursor.execute(statement, params or None)
        return cursor.fetchall() if cursor.description else []


def insert(alias: str, who: str = "me") -> None:
    run(alias, "INSERT INTO entry (who) VALUES (%s)", who)


def insert_in_a_thread(who: str) -> None:
    """Write a row over this thread's own `second` connection."""
    try:
        with transaction.atomic("second"):
            insert("second", who)
    finally:
        connections["second"].close()


def writers() -> list[str]:
    """Tell who wrote, in order."""
    return [who for (who,) in run("plain", "SELECT who FROM entry ORDER BY id")]


def be_patient(alias: str, seconds: float) -> None:
    wrapper = connections[alias]
    assert isinstance(wrapper, DatabaseWrapper)
    wrapper.busy_seconds = seconds


def beside(database: Path, name: str) -> Path:
    return database.with_name(f"{database.name}.{name}")


def is_free(database: Path, name: str) -> bool:
    with beside(database, name).open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def is_at_the_door(database: Path) -> Callable[[], bool]:
    return lambda: not is_free(database, "door")


@pytest.mark.sqlite_only
def test_kabar_writes_to_sqlite_through_the_queue() -> None:
    assert (connection.vendor, connection.settings_dict["ENGINE"]) == ("sqlite", "config.sqlite")


# --- Who is next ------------------------------------------------------------------------------------------------------


def test_a_thread_that_waits_writes_before_the_one_that_commits_and_begins_again(database: Path) -> None:
    with ThreadPoolExecutor(1) as pool:
        with transaction.atomic("first"):
            insert("first", "one")
            waiting = pool.submit(insert_in_a_thread, "two")
            wait_until(is_at_the_door(database))
        with transaction.atomic("first"):
            insert("first", "three")
        waiting.result()
    assert writers() == ["one", "two", "three"]


def test_a_process_that_waits_writes_before_the_one_that_commits_and_begins_again(
    database: Path, other_process: OtherProcess
) -> None:
    with ThreadPoolExecutor(1) as pool:
        with transaction.atomic("first"):
            insert("first", "one")
            wait_until(is_at_the_door(database))
        committing = pool.submit(other_process.commit_once_it_writes)
        with transaction.atomic("first"):
            insert("first", "three")
        committing.result()
    assert writers() == ["one", "other", "three"]


def test_many_threads_write_in_turn_and_none_is_turned_away(database: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(insert_in_a_thread, [str(number) for number in range(40)]))
    assert sorted(map(int, writers())) == list(range(40))
    assert is_free(database, "pen")


# --- How long one waits -----------------------------------------------------------------------------------------------


def test_past_its_time_a_writer_fails_as_sqlite_has_it(database: Path) -> None:
    be_patient("second", 0.05)
    with transaction.atomic("first"):
        with pytest.raises(OperationalError) as ours, transaction.atomic("second"):
            pass
        with pytest.raises(OperationalError) as theirs, transaction.atomic("plain"):
            pass
    assert str(ours.value) == str(theirs.value) == "database is locked"
    assert repr(ours.value.__cause__) == repr(theirs.value.__cause__)
    assert vars(ours.value.__cause__) == vars(theirs.value.__cause__)
    with transaction.atomic("second"):
        insert("second")


def test_a_thread_behind_another_one_at_the_door_gives_up_in_its_own_time(database: Path) -> None:
    ahead, waiting, behind = (Turnstile(database) for _ in range(3))
    assert ahead.enter(0)
    with ThreadPoolExecutor(1) as pool:
        entered = pool.submit(waiting.enter, 20.0)
        wait_until(is_at_the_door(database))
        assert not behind.enter(0.05)
        assert not entered.done()
        ahead.leave()
        assert entered.result()


def test_a_connection_keeps_its_patience_when_it_is_opened_again(database: Path) -> None:
    assert run("first", "PRAGMA busy_timeout") == [(20_000,)]
    be_patient("first", 5.0)
    assert run("first", "PRAGMA busy_timeout") == [(5_000,)]
    connections["first"].close()
    assert run("first", "PRAGMA busy_timeout") == [(5_000,)]
    assert run("second", "PRAGMA busy_timeout") == [(20_000,)]


# --- What takes a turn ------------------------------------------------------------------------------------------------


def test_who_reads_outside_a_transaction_takes_none(database: Path) -> None:
    ahead = Turnstile(database)
    assert ahead.enter(0)
    be_patient("first", 0)
    assert run("first", "SELECT * FROM entry") == []


def test_a_transaction_takes_a_turn_before_it_writes(database: Path) -> None:
    ahead = Turnstile(database)
    assert ahead.enter(0)
    be_patient("first", 0)
    with pytest.raises(OperationalError, match="database is locked"), transaction.atomic("first"):
        pass
    ahead.leave()
    with transaction.atomic("first"):
        pass


def test_who_only_reads_opens_no_lock(database: Path) -> None:
    assert run("first", "SELECT * FROM entry") == []
    assert not beside(database, "door").exists()
    assert not beside(database, "pen").exists()


def test_savepoints_belong_to_the_turn_of_their_transaction(database: Path) -> None:
    with transaction.atomic("first"):
        with transaction.atomic("first"):
            insert("first", "kept")
        with transaction.atomic("first"):
            insert("first", "dropped")
            transaction.set_rollback(True, "first")
        assert not is_free(database, "pen")
        assert is_free(database, "door")
    assert is_free(database, "pen")
    assert writers() == ["kept"]


# --- When the turn is over --------------------------------------------------------------------------------------------


def commit(database: Path) -> None:
    with transaction.atomic("first"):
        insert("first")
        assert not is_free(database, "pen")


def roll_back(database: Path) -> None:
    with transaction.atomic("first"):
        insert("first")
        assert not is_free(database, "pen")
        transaction.set_rollback(True, "first")


def close_inside(database: Path) -> None:
    with transaction.atomic("first"):
        insert("first")
        assert not is_free(database, "pen")
        connections["first"].close()
        assert is_free(database, "pen")


def fail_to_begin(database: Path) -> None:
    be_patient("first", 0)
    with (
        transaction.atomic("plain"),
        pytest.raises(OperationalError, match="database is locked"),
        transaction.atomic("first"),
    ):
        pass


def write_outside_a_transaction(database: Path) -> None:
    insert("first")


@pytest.mark.parametrize(
    "way",
    [
        commit,
        roll_back,
        close_inside,
        fail_to_begin,
        write_outside_a_transaction,
    ],
)
def test_the_next_one_may_write_after(way: Callable[[Path], None], database: Path) -> None:
    way(database)
    assert is_free(database, "pen")
    assert is_free(database, "door")
    be_patient("second", 0)
    insert("second")


def test_a_connection_that_is_forgotten_holds_nothing(database: Path) -> None:
    forgotten, next_one = Turnstile(database), Turnstile(database)
    assert forgotten.enter(0)
    del forgotten
    assert next_one.enter(0)


def test_a_process_that_is_killed_while_it_writes_leaves_no_lock(database: Path, other_process: OtherProcess) -> None:
    other_process.wait_until_it_writes()
    assert not is_free(database, "pen")
    other_process.kill()
    be_patient("first", 0)
    with transaction.atomic("first"):
        insert("first")
    assert writers() == ["me"]


def test_a_process_that_is_killed_at_the_door_leaves_no_lock(database: Path, other_process: OtherProcess) -> None:
    with transaction.atomic("first"):
        wait_until(is_at_the_door(database))
        other_process.kill()
        assert is_free(database, "door")


def test_a_process_that_is_halted_at_the_door_holds_nobody_up_for_long(
    database: Path, other_process: OtherProcess
) -> None:
    with transaction.atomic("first"):
        insert("first", "one")
        wait_until(is_at_the_door(database))
        other_process.halt()
    began = time.monotonic()
    with transaction.atomic("first"):
        insert("first", "two")
    assert time.monotonic() - began < 10
    assert not is_free(database, "door")
    assert run("first", "PRAGMA busy_timeout") == [(20_000,)]
    assert writers() == ["one", "two"]


def test_nothing_is_left_to_commit_on_a_connection_that_was_closed(database: Path) -> None:
    commit(database)
    connections["first"].close()
    transaction.commit("first")
    transaction.rollback("first")
    assert is_free(database, "pen")


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_neither_has_its_parents_turn_nor_can_end_or_keep_it(database: Path) -> None:
    mine, other = Turnstile(database), Turnstile(database)
    assert mine.enter(0)
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            is_right = not mine.is_held
            mine.leave()
            mine.close()
            is_right = is_right and not mine.enter(0)
            os.write(tell, b"y" if is_right else b"n")
            threading.Event().wait(30)  # it lives on while its parent leaves, and is killed
        finally:
            os._exit(1)
    try:
        assert os.read(told, 1) == b"y"
        assert not other.enter(0)
        mine.leave()
        assert other.enter(0)
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
        os.close(told)
        os.close(tell)


# --- The files --------------------------------------------------------------------------------------------------------


def test_the_locks_belong_to_the_databases_owner_alone(database: Path) -> None:
    if os.geteuid() == 0:
        os.chown(database, 12345, 12345)
    with transaction.atomic("first"):
        insert("first")
    for name in ("door", "pen"):
        status = beside(database, name).stat()
        assert (stat.S_IMODE(status.st_mode), status.st_size) == (0o600, 0)
        assert status.st_uid == database.stat().st_uid


def test_a_database_known_by_another_name_has_the_same_queue(database: Path) -> None:
    link = database.with_name("link.sqlite3")
    link.symlink_to(database)
    connections.settings["second"]["NAME"] = link
    be_patient("second", 0)
    locked = pytest.raises(OperationalError, match="database is locked")
    with transaction.atomic("first"), locked, transaction.atomic("second"):
        pass
    assert not beside(link, "pen").exists()


def test_a_lock_that_cannot_be_opened_is_named(database: Path) -> None:
    beside(database, "door").mkdir()
    named = pytest.raises(OperationalError, match=r"unable to open .*house\.sqlite3\.door: Is a directory")
    with named, transaction.atomic("first"):
        pass


def test_a_database_in_memory_has_no_queue(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = database.with_name("empty")
    empty.mkdir()
    monkeypatch.chdir(empty)
    with transaction.atomic("memory"):
        run("memory", "CREATE TABLE entry (who text)")
        insert("memory")
    assert run("memory", "SELECT who FROM entry") == [("me",)]
    assert list(empty.iterdir()) == []
