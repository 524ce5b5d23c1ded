"""The house keeps its shape: imports go down only, nothing unpickles, nothing fetches."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = ("appliance", "synth", "train", "audit")
SOURCES = sorted(path for floor in FLOORS for path in (ROOT / floor).rglob("*.py"))
NETWORK = {"requests", "httpx", "urllib3", "aiohttp", "http", "ftplib", "smtplib", "telnetlib", "urllib.request"}
UNPICKLERS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}


def imports(tree: ast.AST) -> Iterator[str]:
    """Dotted names of all modules that a file imports, those inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Every call with what it calls, as written."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_imports_go_down_only() -> None:
    program = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    lint = [sys.executable, "-c", program, "--no-cache"]
    done = subprocess.run(lint, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def test_packaging_is_no_package() -> None:
    """An importable `packaging` would shadow the one from PyPI, which transformers imports."""
    assert not list((ROOT / "packaging").rglob("__init__.py"))
    import packaging.version

    assert ROOT / "packaging" not in Path(packaging.version.__file__).parents


@pytest.mark.parametrize("path", SOURCES, ids=named)
def test_nothing_unpickles_or_fetches(path: Path) -> None:
    tree = ast.parse(path.read_text())
    for module in imports(tree):
        assert module.partition(".")[0] not in UNPICKLERS, f"{named(path)} imports {module}: pickles run code"
        assert module not in NETWORK and module.partition(".")[0] not in NETWORK, f"{named(path)} imports {module}"
    for called, call in calls(tree):
        assert called != "torch.load", f"{named(path)}:{call.lineno} unpickles; weights are safetensors or GGUF"
        if called.endswith((".read_pickle", "numpy.load", "np.load")):
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
            safe = called.endswith(".load") and given.get("allow_pickle", "False") == "False"
            assert safe, f"{named(path)}:{call.lineno} may unpickle"


def test_the_ban_catches_what_it_bans() -> None:
    """The helpers above see imports inside functions and calls with a prefix."""
    tree = ast.parse("def f():\n    from urllib import request\n    import pickle as p\n    return torch.load('x')\n")
    assert {"urllib.request", "pickle"} <= set(imports(tree))
    assert "torch.load" in {called for called, _ in calls(tree)}


@pytest.mark.parametrize("floor", FLOORS)
def test_every_folder_of_a_floor_is_a_package(floor: str) -> None:
    """A folder without __init__.py would be left out of the wheel, and nobody would see it here."""
    for folder in {path.parent for path in (ROOT / floor).rglob("*.py")}:
        assert (folder / "__init__.py").is_file(), f"{named(folder)} has no __init__.py"


def test_no_file_is_two_nouns() -> None:
    long = {named(path): n for path in SOURCES if (n := len(path.read_text().splitlines())) > 400}
    assert not long, f"past 400 lines: {long}"
