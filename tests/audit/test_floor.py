"""The floor stands alone: no learning library, and nothing slow, comes in with it."""

import pkgutil
import subprocess
import sys
from pathlib import Path

import audit

ROOT = Path(__file__).parents[2]
MODULES = sorted(f"audit.{module.name}" for module in pkgutil.iter_modules(audit.__path__))


def test_no_module_brings_in_a_learning_library():
    assert len(MODULES) > 15
    code = f"import sys, {', '.join(MODULES)}; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    loaded = {name.split(".")[0] for name in found.stdout.split()}
    assert not loaded & {
        "torch",
        "transformers",
        "numpy",
        "scipy",
        "PIL",
        "rich",
        "click",
        "train",
        "appliance",
        "synth",
    }


def test_the_floor_brings_in_nothing_slow():
    """What takes its time is imported where it is used. Seconds are measured in tests/benchmarks/bench_startup.py."""
    code = f"import sys, {', '.join(MODULES)}; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert not set(found.stdout.split()) & {
        "asyncio",
        "cryptography",
        "email",
        "http",
        "importlib.metadata",
        "pydoc",
        "reportlab",
        "segno",
        "sqlite_utils",
        "ssl",
        "unittest",
        "urllib.request",
        "xml",
    }
