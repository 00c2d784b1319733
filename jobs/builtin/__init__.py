"""The kinds that come with Kabar."""

from jobs.builtin import countdown
from jobs.builtin.csv_report import handler

__all__ = ["countdown", "handler"]
