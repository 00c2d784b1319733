"""What stands between two cells. Apart from `dialect`, so that the params need not load what that loads."""

from __future__ import annotations

# Looked for by themselves, the likeliest first. A colon or a space is taken only where the user says so: both are
# common inside values.
FOUND_DELIMITERS = (",", ";", "\t", "|", "^", "~")
DELIMITER_NAMES = {
    ",": "comma",
    ";": "semicolon",
    "\t": "tab",
    "|": "vertical bar",
    "^": "caret",
    "~": "tilde",
    ":": "colon",
    " ": "space",
}
NO_DELIMITER = "\x1f"  # the ASCII unit separator: the csv module wants one, and this one is in no value
