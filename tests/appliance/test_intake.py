"""Ingest: whole files or nothing, nothing twice, and on again after any interruption."""

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from appliance.intake import ingest as module
from appliance.intake.ingest import ingest
from appliance.progress import silent
from audit.errors import BadInput, Refused
from audit.vault import Vault
from tests.appliance.conftest import NUMBER, STEWARD, bring_in, captions, lines_of, write


def test_pairs_become_records_under_their_patients(vault: Vault, folder: Path) -> None:
    report = bring_in(vault, folder)
    assert (report.pairs, report.added, report.known, report.duplicates, report.patients) == (20, 20, 0, 0, 2)
    assert report.splits == {"train": 10, "held-out": 10}
    records = vault.catalogue.records()
    assert {record.split for record in records if record.patient == vault.pseudonym(NUMBER)} == {"held-out"}
    assert captions(vault) == [line["caption"] for line in lines_of(folder)]
    with vault.use([records[3].image], "HRESCH", STEWARD, "test") as opened:
        picture = Image.open(io.BytesIO(opened.read(records[3].image)))
    assert (picture.format, picture.getpixel((0, 0))) == ("PNG", 30)


def test_no_plaintext_under_the_home(vault: Vault, folder: Path) -> None:
    bring_in(vault, folder)
    for path in vault.home.rglob("*"):
        data = path.read_bytes() if path.is_file() else b""
        assert not any(word in data for word in (b"fusiform", b"canary", b"811721", b"\x89PNG", b"images/"))


def test_nothing_comes_in_twice(vault: Vault, folder: Path) -> None:
    write(folder, lines_of(folder) + lines_of(folder)[:3])
    assert bring_in(vault, folder).duplicates == 3
    again = bring_in(vault, folder)
    assert (again.added, again.known, again.duplicates) == (0, 20, 3)
    assert len(vault.catalogue.records()) == 20
    assert len(vault.catalogue.objects("image")) == 20


def test_dry_run_counts_and_writes_nothing(vault: Vault, folder: Path) -> None:
    report = bring_in(vault, folder, dry_run=True)
    assert (report.added, report.dry_run) == (20, True)
    assert vault.catalogue.objects() == [] and vault.catalogue.records() == []


def test_a_patient_keeps_the_split_of_the_first_time(vault: Vault, folder: Path) -> None:
    everything = lines_of(folder)
    write(folder, everything[:4])
    bring_in(vault, folder)
    write(folder, everything)
    ingest(vault, folder, STEWARD, split=lambda _: "train")
    patient = vault.pseudonym(NUMBER)
    assert {record.split for record in vault.catalogue.records(patient=patient)} == {"held-out"}


@pytest.mark.parametrize("moment", ["after a batch", "before the events", "before the rows"])
def test_interrupted_anywhere_the_same_command_goes_on(
    vault: Vault, folder: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    monkeypatch.setattr(module, "BATCH", 6)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    def stop_writing(done: int, total: int, what: str) -> None:
        if what == "records":
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        if moment == "before the events":
            patch.setattr(vault, "record_many", stop)
        if moment == "before the rows":
            patch.setattr(vault.catalogue, "add_record", stop)
        bring_in(vault, folder, progress=stop_writing if moment == "after a batch" else silent)
    assert len(vault.catalogue.records()) == (6 if moment == "after a batch" else 0)
    report = bring_in(vault, folder)
    assert report.added + report.known == 20
    assert captions(vault) == [line["caption"] for line in lines_of(folder)]
    assert len(vault.catalogue.objects("image")) == len(vault.catalogue.objects("report")) == 20


def broken_line(source: Path) -> None:
    lines = (source / "pairs.jsonl").read_text().splitlines()
    lines[16] = lines[16][:25]
    (source / "pairs.jsonl").write_text("\n".join(lines))


def without_caption(source: Path) -> None:
    lines = lines_of(source)
    del lines[16]["caption"]
    write(source, lines)


def empty_caption(source: Path) -> None:
    write(source, [line | ({"caption": " "} if at == 16 else {}) for at, line in enumerate(lines_of(source))])


def number_as_caption(source: Path) -> None:
    write(source, [line | ({"caption": 7} if at == 16 else {}) for at, line in enumerate(lines_of(source))])


def no_patient(source: Path) -> None:
    write(source, [line | ({"patient": ""} if at == 16 else {}) for at, line in enumerate(lines_of(source))])


def no_object(source: Path) -> None:
    lines = (source / "pairs.jsonl").read_text().splitlines()
    lines[16] = "[1, 2]"
    (source / "pairs.jsonl").write_text("\n".join(lines))


def missing(source: Path) -> None:
    (source / "images" / "16.png").unlink()


def truncated(source: Path) -> None:
    whole = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(whole, "PNG")
    (source / "images" / "16.png").write_bytes(whole.getvalue()[:1500])


def no_picture(source: Path) -> None:
    (source / "images" / "16.png").write_text("a text")


def a_folder(source: Path) -> None:
    missing(source)
    (source / "images" / "16.png").mkdir()


def escaping(source: Path) -> None:
    Image.new("L", (4, 4)).save(source.parent / "outside.png")
    write(
        source, [line | ({"image": "../outside.png"} if at == 16 else {}) for at, line in enumerate(lines_of(source))]
    )


def linked_outside(source: Path) -> None:
    missing(source)
    Image.new("L", (4, 4)).save(source.parent / "outside.png")
    (source / "images" / "16.png").symlink_to(source.parent / "outside.png")


def absolute(source: Path) -> None:
    write(source, [line | ({"image": "/etc/passwd"} if at == 16 else {}) for at, line in enumerate(lines_of(source))])


def not_utf8(source: Path) -> None:
    lines = (source / "pairs.jsonl").read_bytes().splitlines()
    lines[16] = lines[16].replace(b"Slice", b"Gr\xf6\xdfe")
    (source / "pairs.jsonl").write_bytes(b"\n".join(lines))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (broken_line, "cannot be read"),
        (without_caption, "no text"),
        (empty_caption, "empty"),
        (number_as_caption, "no text"),
        (no_patient, "no patient"),
        (no_object, "a JSON object"),
        (missing, "missing"),
        (truncated, "truncated"),
        (no_picture, "no picture"),
        (a_folder, "no picture"),
        (escaping, "outside the folder"),
        (linked_outside, "outside the folder"),
        (absolute, "outside the folder"),
        (not_utf8, "not UTF-8"),
    ],
)
def test_one_bad_line_refuses_the_whole_file(
    vault: Vault, folder: Path, damage: Callable[[Path], None], says: str
) -> None:
    damage(folder)
    before = vault.checkpoint()
    with pytest.raises(BadInput) as refused:
        bring_in(vault, folder)
    error = refused.value
    assert error.exit_code == 3 and says in error.what and error.hint
    assert "pairs.jsonl:17" in error.where and NUMBER not in error.diagnostics()
    assert vault.catalogue.objects() == [] and vault.checkpoint() == before


def test_sources_that_are_none(vault: Vault, folder: Path, tmp_path: Path) -> None:
    for source, says in [
        (tmp_path / "nowhere", "no such file"),
        (folder / "images", "No file here"),
        (folder / "images" / "1.png", "JSONL, JSON, CSV or TSV"),
    ]:
        with pytest.raises(BadInput, match=says):
            bring_in(vault, source)
    (folder / "pairs.jsonl").rename(folder / "one.jsonl")
    (folder / "two.csv").write_text("image,caption\n")
    with pytest.raises(BadInput, match=r"several files.*one\.jsonl, two\.csv"):
        bring_in(vault, folder)
    with pytest.raises(BadInput, match="holds no pairs"):
        bring_in(vault, folder / "two.csv")


def test_an_unknown_use_of_what_came_in_is_refused(vault: Vault, folder: Path) -> None:
    bring_in(vault, folder)
    with pytest.raises(Refused), vault.use([vault.catalogue.records()[0].image], "MARKETING", STEWARD, "test"):
        pass
