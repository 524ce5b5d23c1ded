"""What all tests share: no network manners, no appliance of the person who runs them, few threads."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("CLOCHE_CACHE", str(Path.home() / ".cache" / "cloche"))
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "2")


@pytest.fixture(autouse=True)
def _nobodys_home(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep the tester's own appliance, passphrase and settings out of every test."""
    for name in ("CLOCHE_HOME", "CLOCHE_PASSPHRASE_FILE", "CLOCHE_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("person")))
