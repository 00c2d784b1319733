"""Faults injected into Kabar's own processes and the servers behind it, and what was lost counted: nothing."""
