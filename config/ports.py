"""Which TCP ports are free."""

from __future__ import annotations

import socket


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port of an address of this machine that nobody listens on now."""
    with _listen(host, 0) as probe:
        port: int = probe.getsockname()[1]
        return port


def is_free(host: str, port: int) -> bool:
    """Tell whether a server may listen on the port.

    Raises:
        OSError: the address isn't one of this machine.
    """
    try:
        _listen(host, port).close()
    except PermissionError:
        raise
    except OSError:
        free_port(host)  # tells a wrong address from a taken port
        return False
    return True


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family)
