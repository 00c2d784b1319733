"""Kinds of jobs for the outside tests; installed by `KABAR_APPS=tests.e2e.workload` and never by default."""
