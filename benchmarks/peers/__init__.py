"""What the benchmarks run beside Kabar: what one would write without it."""
