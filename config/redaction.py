"""Log lines without the tokens of URLs, whoever writes them: Twisted's requests show their whole URL, for one."""

import logging
import re

TOKEN_IN_URL = re.compile(r"([?&]token=)[^&\s'\"<>]+")


class RedactingFormatter(logging.Formatter):
    """Writes a line, its traceback too, with `…` in place of each `?token=`."""

    def format(self, record: logging.LogRecord) -> str:
        return TOKEN_IN_URL.sub(r"\1…", super().format(record))
