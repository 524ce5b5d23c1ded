"""Experiments whose tables are in docs/results.md: each is computed by one command and can be gone on with."""
