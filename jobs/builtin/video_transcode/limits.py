"""How much one job may ask for."""

from __future__ import annotations

LONGEST_SECONDS = 4 * 3600.0
LONGEST_SIDE = 8192
MOST_PIXELS = 8192 * 4320
LARGEST_RESULT_BYTES = 1 << 30
MEMORY_BYTES = 4 << 30
"""Of addresses, so of memory at most; 8K took 0.8 GB in HEVC and 1.8 in AV1 with 10 bits."""
THREADS = 2
"""For decoding, and again for encoding."""
SCAN_CPU_SECONDS = 300
POSTER_CPU_SECONDS = 60
ENCODE_CPU_SECONDS = 24 * 3600
"""Beyond any timeout that is likely: the job's own ends it earlier."""
