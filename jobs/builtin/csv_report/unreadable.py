"""What a file that can't be profiled is told with."""

from __future__ import annotations


class UnreadableCsvError(Exception):
    """The file can't be read as a table.

    Args:
        code: a stable word for programs, such as `empty_file`.
        message: a sentence for the person who sent the file: what was found, and what to do.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
