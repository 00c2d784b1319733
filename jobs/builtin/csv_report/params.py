"""What `csv.report` is asked with."""

from __future__ import annotations

import codecs
from typing import Any

from rest_framework import serializers

from jobs.kinds import UploadField

from .delimiters import DELIMITER_NAMES


class CsvReportParams(serializers.Serializer[Any]):
    """The file, and what the user knows of it better than a guess."""

    file = UploadField(help_text="The CSV file: any delimiter, any encoding.")
    delimiter = serializers.ChoiceField(
        choices=[(delimiter, name.capitalize()) for delimiter, name in DELIMITER_NAMES.items()],
        required=False,
        allow_null=True,
        help_text="What stands between two cells; found from the file if left out.",
    )
    encoding = serializers.CharField(
        required=False,
        allow_blank=True,
        max_length=40,
        help_text="Such as utf-8 or windows-1252; found from the file if left out.",
    )

    def validate_encoding(self, value: str) -> str:
        """Refuse what can't decode a text file."""
        if not value:
            return ""
        try:
            codec = codecs.lookup(value)
        except (LookupError, UnicodeError):
            raise serializers.ValidationError("There is no encoding of this name; try utf-8 or windows-1252.") from None
        # Codecs such as base64 and rot13 decode no text files; unicode_escape and its like would rewrite their values.
        if not codec._is_text_encoding or codec.incrementaldecoder is None or codec.name in NOT_OF_FILES:
            raise serializers.ValidationError("This is not an encoding of text files; try utf-8 or windows-1252.")
        return value


NOT_OF_FILES = {"idna", "punycode", "undefined", "unicode-escape", "raw-unicode-escape", "utf-7", "mbcs", "oem"}
