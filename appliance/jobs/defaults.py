"""Numbers that the demo and the commands share; the commands show them in their help, so nothing heavy is imported."""

REHEARSED = 600
"""Questions about drawn general pictures that supervised training mixes in."""
ALIGNMENT_STEPS = 10
"""Optimizer steps of GRPO."""
FEATURE_CACHE_GB = 20.0
"""Disk for the vision tower's outputs, in GB (10^9 bytes): 25,000 images for Qwen2-VL-2B, 800 for LLaVA-NeXT, 400 for
Llama-3.2-Vision."""
