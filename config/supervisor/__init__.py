"""Runs the entries of a Procfile side by side, and leaves nothing behind (docs/decisions/supervisor.md).

`procfile` reads the file; `stack` starts and ends the processes in the order of their `roles`; `kept_process`
keeps each alive; `log` writes what they say; `warden` ends them all if the supervisor itself is killed;
`foreground` runs a stack until Ctrl-C.
"""

from config.supervisor.roles import Role
from config.supervisor.stack import NotReady, Supervisor

__all__ = ["NotReady", "Role", "Supervisor"]
