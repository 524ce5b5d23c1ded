"""The verifier, broken by hand in many ways: a test falls each time, and docs/testing.md lists which."""

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "tests" / "mutate_verifier.py"
MARKERS = "<!-- mutants -->\n", "<!-- end -->"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("mutate_verifier", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_every_break_of_the_verifier_makes_a_test_fall(script):
    assert len(script.MUTANTS) >= 10
    assert script.survivors() == []


def test_the_page_about_tests_lists_them(script):
    page = (ROOT / "docs" / "testing.md").read_text()
    found = page.partition(MARKERS[0])[2].partition(MARKERS[1])[0]
    assert found == script.table(), "paste it anew: python tests/mutate_verifier.py --table"
