"""docs/verify_standalone.py as a module: the verifier that shares no code with audit/."""

import importlib.util
from pathlib import Path
from types import ModuleType

PATH = Path(__file__).parents[2] / "docs" / "verify_standalone.py"


def load() -> ModuleType:
    """The module, freshly loaded."""
    spec = importlib.util.spec_from_file_location("verify_standalone", PATH)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


STANDALONE = load()
