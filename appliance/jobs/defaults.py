"""Numbers that the demo and the commands share; the commands show them in their help, so nothing heavy is imported."""

REHEARSED = 600
"""Questions about drawn general pictures that supervised training mixes in."""
ALIGNMENT_STEPS = 10
"""Optimizer steps of GRPO."""
