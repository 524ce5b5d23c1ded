"""The steward's commands meet bad input: one sentence, the place, the next command, the right exit code."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

COMMAND = [sys.executable, "-m", "appliance.cli.main"]


class Appliance:
    """An appliance in a folder, with two recipients and a passphrase file."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.home = folder, folder / "home"
        self.secret = folder / "passphrase"
        self.secret.write_text("correct horse battery staple\n")
        self.secret.chmod(0o600)

    def run(self, *arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
        """One command."""
        known = {**os.environ, "CLOCHE_PASSPHRASE_FILE": str(self.secret), **environment}
        command = [*COMMAND, "--home", str(self.home), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, env=known, check=False, stdin=subprocess.DEVNULL)


@pytest.fixture
def appliance(tmp_path: Path) -> Appliance:
    """A fresh appliance with three records."""
    made = Appliance(tmp_path)
    for name in ("auditor", "recovery"):
        assert made.run("audit", "keygen", name, "--out", tmp_path).returncode == 0
    done = made.run("init", "--recipient", tmp_path / "auditor.pub", "--recipient", tmp_path / "recovery.pub")
    assert done.returncode == 0, done.stderr
    return made


def pairs(folder: Path, count: int = 3) -> Path:
    """A file of pairs with its pictures."""
    lines = []
    for k in range(count):
        Image.new("L", (40, 40), 40 * k).save(folder / f"picture{k}.png")
        lines.append(
            json.dumps({"image": f"picture{k}.png", "caption": f"A caption, number {k}.", "patient": f"pat-{k:04}"})
        )
    path = folder / "pairs.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def objects(appliance: Appliance) -> int:
    return sum(1 for p in (appliance.home / "vault" / "objects").rglob("*") if p.is_file())


def test_ingest_twice_adds_nothing(appliance: Appliance) -> None:
    source = pairs(appliance.folder)
    dry = json.loads(appliance.run("ingest", source, "--dry-run", "--json").stdout)
    assert dry["added"] == 3 and objects(appliance) == 0
    assert json.loads(appliance.run("ingest", source, "--json").stdout)["added"] == 3
    assert json.loads(appliance.run("ingest", source, "--json").stdout)["added"] == 0
    assert len(json.loads(appliance.run("records", "--json").stdout)) == 3


def test_ingest_reads_other_columns(appliance: Appliance) -> None:
    source = appliance.folder / "reports.csv"
    pairs(appliance.folder, 2)
    source.write_text("file,report,mrn\n0,A report.,p-1\n1,Another.,p-2\n")
    assert appliance.run("ingest", source).returncode == 3
    options = ("--columns", "image=file,text=report,patient=mrn", "--pattern", "picture{}.png", "--json")
    done = appliance.run("ingest", source, *options)
    assert json.loads(done.stdout)["added"] == 2, done.stderr
    assert appliance.run("ingest", source, "--columns", "picture=file").returncode == 3


def test_init_shows_the_key_that_verifies_the_log(appliance: Appliance, tmp_path: Path) -> None:
    other = Appliance(tmp_path)
    other.home = tmp_path / "second"
    recipients = ("--recipient", tmp_path / "auditor.pub", "--recipient", tmp_path / "recovery.pub")
    key = json.loads(other.run("init", "--json", *recipients).stdout)["log_key"]
    (tmp_path / "kept.pub").write_text(f"{key}\n")
    assert other.run("audit", "verify", "--key-pin", tmp_path / "kept.pub").returncode == 0


def test_a_broken_line_refuses_the_file(appliance: Appliance) -> None:
    source = pairs(appliance.folder, 20)
    lines = source.read_text().splitlines()
    lines[16] = lines[16][:-5]
    source.write_text("\n".join(lines))
    done = appliance.run("ingest", source)
    assert done.returncode == 3 and "pairs.jsonl:17" in done.stderr and "Next:" in done.stderr
    assert objects(appliance) == 0


def test_a_truncated_image_refuses_the_file(appliance: Appliance) -> None:
    source = pairs(appliance.folder)
    picture = appliance.folder / "picture1.png"
    picture.write_bytes(picture.read_bytes()[:60])
    done = appliance.run("ingest", source)
    assert done.returncode == 3 and "picture1.png" in done.stderr
    assert objects(appliance) == 0


def test_no_passphrase(appliance: Appliance) -> None:
    done = appliance.run("records", CLOCHE_PASSPHRASE_FILE="")
    assert done.returncode == 3 and "CLOCHE_PASSPHRASE_FILE" in done.stderr


def test_wrong_passphrase(appliance: Appliance) -> None:
    appliance.secret.write_text("another\n")
    done = appliance.run("records")
    assert done.returncode == 3 and "passphrase" in done.stderr


def test_a_home_of_a_newer_version(appliance: Appliance) -> None:
    about = json.loads((appliance.home / "cloche.json").read_text())
    (appliance.home / "cloche.json").write_text(json.dumps(about | {"format": 99}))
    done = appliance.run("records")
    assert done.returncode == 3 and "newer" in done.stderr


@pytest.mark.parametrize("kind", ["empty", "pickle", "broken", "unknown", "truncated"])
def test_a_directory_that_is_no_model(appliance: Appliance, kind: str) -> None:
    model = appliance.folder / "model"
    model.mkdir()
    config = {"empty": None, "broken": "{", "unknown": '{"model_type": "abacus"}'}.get(
        kind, '{"model_type": "qwen2_vl"}'
    )
    if config is not None:
        (model / "config.json").write_text(config)
    if kind in ("unknown", "truncated"):
        (model / "model.safetensors").write_bytes(b"\x10\x00")
    if kind == "pickle":
        (model / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    assert appliance.run("ingest", pairs(appliance.folder)).returncode == 0
    before = objects(appliance)
    done = appliance.run("synth", "--synthesizer", model)
    assert done.returncode == 3, done.stderr
    assert str(model) in done.stderr and "Next:" in done.stderr and "Traceback" not in done.stderr
    assert objects(appliance) == before


@pytest.mark.parametrize(
    ("command", "hint"),
    [
        (("train",), "cloche synth"),
        (("align",), "cloche synth"),
        (("export",), "cloche synth"),
        (("synth",), "cloche ingest"),
    ],
)
def test_a_stage_too_early_names_the_one_before(appliance: Appliance, command: tuple[str, ...], hint: str) -> None:
    done = appliance.run(*command)
    assert done.returncode == 3 and hint in done.stderr, done.stderr


def test_ask_without_a_model(appliance: Appliance) -> None:
    pairs(appliance.folder)
    done = appliance.run("ask", appliance.folder / "picture0.png", "Is it?")
    assert done.returncode == 3 and "cloche export" in done.stderr


def test_ask_about_a_broken_image(appliance: Appliance) -> None:
    (appliance.folder / "x.png").write_bytes(b"no picture")
    done = appliance.run("ask", appliance.folder / "x.png", "Is it?")
    assert done.returncode == 3 and "x.png" in done.stderr


def test_one_recipient_is_not_enough(tmp_path: Path) -> None:
    made = Appliance(tmp_path)
    assert made.run("audit", "keygen", "auditor", "--out", tmp_path).returncode == 0
    done = made.run("init", "--recipient", tmp_path / "auditor.pub")
    assert done.returncode == 3 and not made.home.exists()
