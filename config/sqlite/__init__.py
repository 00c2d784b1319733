"""Django's SQLite backend with a queue before the one place of the writer (docs/decisions/sqlite.md)."""
