"""The command line in this process, as a shell would see it; an empty vault, and a hospital's folder to ingest."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from appliance.cli.main import main
from appliance.intake.ingest import IngestReport, ingest
from audit.actor import Actor
from audit.keys import Cost, generate
from audit.vault import Vault

Run = Callable[..., tuple[int, str, str]]
STEWARD = Actor("ada", "steward")
CANARY = "the fusiform gyrus of canary 7741"
NUMBER = "HN811721"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `cloche` with the given words; returns exit code, stdout and stderr."""

    def cloche(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as leaving:
            main(list(words))
        said = capsys.readouterr()
        return int(leaving.value.code or 0), said.out, said.err

    return cloche


@pytest.fixture
def vault(tmp_path: Path) -> Iterator[Vault]:
    """An empty vault."""
    recipients = [generate(name, "X25519").recipient for name in ("auditor", "recovery")]
    cheap = Cost(memory_kib=64, iterations=1, lanes=1)
    with Vault.create(tmp_path / "home", b"correct horse", recipients, cost=cheap, actor=STEWARD) as made:
        yield made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twenty pairs of two patients, in JSONL."""
    source = tmp_path / "export"
    (source / "images").mkdir(parents=True)
    lines: list[dict[str, object]] = []
    for index in range(20):
        Image.new("L", (16, 16), index * 10).save(source / "images" / f"{index}.png")
        patient = NUMBER if index % 2 else "HN200300"
        lines.append({"image": f"images/{index}.png", "caption": f"Slice {index}. {CANARY}.", "patient": patient})
    write(source, lines)
    return source


def write(source: Path, lines: list[dict[str, object]]) -> None:
    (source / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def lines_of(source: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (source / "pairs.jsonl").read_text().splitlines()]


def by_number(number: str) -> str:
    return "held-out" if number == NUMBER else "train"


def bring_in(vault: Vault, source: Path, **how: object) -> IngestReport:
    """Ingest with one patient held out."""
    return ingest(vault, source, STEWARD, split=by_number, **how)  # type: ignore[arg-type]


def captions(vault: Vault) -> list[str]:
    records = vault.catalogue.records()
    with vault.use([record.report for record in records], "HRESCH", STEWARD, "test") as opened:
        return [json.loads(opened.read(record.report))["caption"] for record in records]
