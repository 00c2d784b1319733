"""The embedded Valkey: found by its file, closed to strangers, and with nothing to lose."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Generator
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest
import redis
from redis.backoff import ConstantBackoff, NoBackoff
from redis.retry import Retry

from config.supervisor import Supervisor
from config.valkey import configuration, embedded_url, forget_url
from tests.servers import ROOT


@pytest.fixture
def url(tmp_path: Path) -> Generator[str, None, None]:
    """Run a Valkey that learns its URL from KABAR_DATA, as one that is started by hand does."""
    url = embedded_url(tmp_path)
    env = {name: value for name, value in os.environ.items() if name != "REDIS_URL"} | {"KABAR_DATA": str(tmp_path)}
    with Supervisor(ROOT / "Procfile", env=env, processes=["valkey"], roles={}) as valkey:
        valkey.wait_until_ready()
        yield url


def client(url: str) -> redis.Redis:
    return redis.Redis.from_url(url, retry=Retry(ConstantBackoff(0.05), 100))


def test_it_answers_who_has_the_password_and_keeps_nothing(url: str) -> None:
    with client(url) as valkey:
        assert valkey.ping()
        settings = valkey.config_get("*")
    assert settings["bind"] == "127.0.0.1"
    assert settings["save"] == ""
    assert settings["appendonly"] == "no"
    assert settings["maxmemory-policy"] == "noeviction"
    assert settings["protected-mode"] == "yes"


def test_it_refuses_who_has_no_password_or_another(url: str) -> None:
    with client(url) as valkey:
        assert valkey.ping()
    port = urlsplit(url).port
    for password in (None, "guessed"):
        stranger = redis.Redis(port=port or 0, password=password, retry=Retry(NoBackoff(), 0))
        with stranger, pytest.raises(redis.AuthenticationError):
            stranger.ping()


def test_no_other_address_of_the_machine_reaches_it(url: str) -> None:
    with client(url) as valkey:
        assert valkey.ping()
    port = urlsplit(url).port
    assert port is not None
    # All of 127.0.0.0/8 is this machine, so the second address stands for any that isn't the one listened on.
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", port), timeout=5)


def test_the_password_stands_in_no_command_line(url: str) -> None:
    with client(url) as valkey:
        pid = valkey.info("server")["process_id"]
    password = urlsplit(url).password
    assert password is not None
    assert password.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()
    assert b"valkey-server" in Path(f"/proc/{pid}/cmdline").read_bytes()


def test_a_password_of_any_characters_is_taken(tmp_path: Path) -> None:
    password = 'spaces and "quotes" \\ back\n ünï % # /'
    port = urlsplit(embedded_url(tmp_path)).port
    env = {**os.environ, "REDIS_URL": f"redis://:{quote(password, safe='')}@127.0.0.1:{port}/0"}
    with Supervisor(ROOT / "Procfile", env=env, processes=["valkey"]) as valkey:
        valkey.wait_until_ready()


def test_the_url_is_kept_for_its_owner_and_changes_with_each_start(tmp_path: Path) -> None:
    first = embedded_url(tmp_path)
    second = embedded_url(tmp_path)
    kept = tmp_path / "valkey.url"
    assert kept.read_text().strip() == second
    assert urlsplit(first).password != urlsplit(second).password
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    forget_url(tmp_path)
    forget_url(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "url",
    [
        "redis://127.0.0.1:6379/0",
        "redis://:secret@cache.example.org:6379/0",
        "rediss://:secret@127.0.0.1:6379/0",
        "redis://:secret@127.0.0.1/0",
        "unix:///run/valkey.sock",
    ],
)
def test_only_a_url_of_its_own_kind_is_served(url: str) -> None:
    with pytest.raises(ValueError, match="REDIS_URL"):
        configuration(url)
