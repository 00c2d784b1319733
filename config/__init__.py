"""The project: settings, URLs, the ASGI application, the Celery app and the processes that run them."""

import sys

# Django's SQLite backend imports `sqlite3`. The system's own library is often older than the fix of the WAL-reset
# corruption (SQLite 3.51.3), so the wheel's takes its place before Django is imported (docs/decisions/sqlite.md).
try:
    import pysqlite3
    import pysqlite3.dbapi2
except ImportError:  # no wheel for this machine: the system's library serves, and `jobs.checks` warns if it is old
    pass
else:
    sys.modules["sqlite3"] = pysqlite3
    sys.modules["sqlite3.dbapi2"] = pysqlite3.dbapi2
