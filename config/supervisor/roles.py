"""Who depends on whom, how long each may take to end, and how it shows that it is ready."""

from __future__ import annotations

import http.client
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

PROBE_SECONDS = 2.0


@dataclass(frozen=True, kw_only=True)
class Role:
    """What the supervisor knows of a kind of process."""

    # Tiers start in rising order, each when all of the one before are ready, and end in falling order.
    tier: int = 1
    # From SIGTERM to SIGKILL.
    grace_seconds: float = 10.0
    # Tells from the processes' environment whether such a process serves; None: it is ready when it runs.
    is_ready: Callable[[Mapping[str, str]], bool] | None = None


def answers_ping(environment: Mapping[str, str]) -> bool:
    """Tell whether the server of REDIS_URL answers PING."""
    try:
        once = Retry(NoBackoff(), 0)  # who asks asks again
        with redis.Redis.from_url(environment["REDIS_URL"], socket_timeout=PROBE_SECONDS, retry=once) as client:
            return bool(client.ping())
    except (redis.RedisError, OSError):
        return False


def answers_http(environment: Mapping[str, str]) -> bool:
    """Tell whether something on HOST and PORT answers HTTP without an error of its own."""
    host = environment.get("HOST", "127.0.0.1")
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not listened on
    connection = http.client.HTTPConnection(reachable, int(environment["PORT"]), timeout=PROBE_SECONDS)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status < 500
    except (http.client.HTTPException, OSError):
        return False
    finally:
        connection.close()


# Valkey is first and last, for all others talk over it. The web comes last and goes first: it stops taking
# while there are still workers behind it. A worker's time covers the 10 s that a job which was told to stop
# may take, and its writing.
ROLES: Mapping[str, Role] = {
    "valkey": Role(tier=0, grace_seconds=5.0, is_ready=answers_ping),
    "worker": Role(grace_seconds=20.0),
    "webhooks": Role(grace_seconds=20.0),
    "sweeper": Role(),
    "web": Role(tier=2, is_ready=answers_http),
}
