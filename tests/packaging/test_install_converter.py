"""Taking the converter out of an archive: only what is wanted, never outside the folder, all or nothing."""

import importlib.util
import io
import sys
import tarfile
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "packaging" / "install_converter.py"
WHOLE = {"convert_hf_to_gguf.py": b"1", "convert_lora_to_gguf.py": b"2", "conversion/__init__.py": b"3",
         "gguf-py/gguf/__init__.py": b"4", "LICENSE": b"5"}  # fmt: skip


@pytest.fixture
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("install_converter", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def archive(path: Path, inside: str, files: dict[str, bytes], link: str = "") -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(f"{inside}/{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        if link:
            member = tarfile.TarInfo(f"{inside}/{link}")
            member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(member)
    return path


@pytest.fixture
def installed(script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A whole archive, known by its digest, and an empty prefix to install into."""
    source = archive(tmp_path / "s.tar.gz", str(script.INSIDE), WHOLE | {"README.md": b"not wanted"})
    monkeypatch.setattr(script, "SDIST_SHA256", script.sha256(source))
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "prefix"))
    assert script.main([str(source)]) == 0
    return tmp_path / "prefix" / "share" / "cloche" / "converter"


def test_takes_out_what_is_wanted(installed: Path) -> None:
    there = {str(path.relative_to(installed)): path.read_bytes() for path in installed.rglob("*") if path.is_file()}
    there.pop("VERSION.json")
    assert there == WHOLE
    assert [path.name for path in installed.parent.iterdir()] == ["converter"], "scratch is left behind"


def test_a_second_run_fetches_nothing(installed: Path, script: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert script.main(["/there/is/no/such/file"]) == 0
    assert "already" in capsys.readouterr().out


def test_a_damaged_installation_is_made_again(installed: Path, script: ModuleType, tmp_path: Path) -> None:
    (installed / "LICENSE").unlink()
    assert not script.is_installed(installed)
    assert script.main([str(tmp_path / "s.tar.gz")]) == 0
    assert script.is_installed(installed)


def test_another_archive_is_refused_before_it_is_read(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "prefix"))
    source = archive(tmp_path / "other.tar.gz", str(script.INSIDE), WHOLE)
    assert script.main([str(source)]) == 4
    assert not list((tmp_path / "prefix" / "share" / "cloche").iterdir())


@pytest.mark.parametrize("name", ["gguf-py/../../../evil.py", "conversion/../../evil.py"])
def test_a_name_that_climbs_out_is_refused(script: ModuleType, tmp_path: Path, name: str) -> None:
    source = archive(tmp_path / "s.tar.gz", str(script.INSIDE), WHOLE | {name: b"x"})
    with pytest.raises(ValueError, match="evil"):
        script.unpack(source, tmp_path / "out" / "deep")
    assert not list(tmp_path.rglob("evil.py"))


def test_a_link_is_refused(script: ModuleType, tmp_path: Path) -> None:
    source = archive(tmp_path / "s.tar.gz", str(script.INSIDE), WHOLE, link="gguf-py/passwd")
    with pytest.raises(ValueError, match="passwd"):
        script.unpack(source, tmp_path / "out")


def test_an_archive_that_lacks_a_part_is_refused(script: ModuleType, tmp_path: Path) -> None:
    source = archive(tmp_path / "s.tar.gz", str(script.INSIDE), {k: v for k, v in WHOLE.items() if k != "LICENSE"})
    with pytest.raises(ValueError, match="LICENSE"):
        script.unpack(source, tmp_path / "out")
