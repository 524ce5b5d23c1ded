"""Ingest: whole files or nothing, nothing twice, nothing of a patient's number, and on again after any interruption."""

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from appliance.intake import ingest as module
from appliance.intake.deidentify import MARK, without_number
from appliance.intake.ingest import IngestReport, ingest
from appliance.intake.pictures import open_picture, to_png
from appliance.intake.readers import Columns, read_pairs
from appliance.progress import silent
from audit.actor import Actor
from audit.errors import BadInput, Refused
from audit.keys import Cost, generate
from audit.vault import Vault

STEWARD = Actor("ada", "steward")
CANARY = "the fusiform gyrus of canary 7741"
NUMBER = "HN811721"


@pytest.fixture
def vault(tmp_path: Path) -> Iterator[Vault]:
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
    return ingest(vault, source, STEWARD, split=by_number, **how)  # type: ignore[arg-type]


def captions(vault: Vault) -> list[str]:
    records = vault.catalogue.records()
    with vault.use([record.report for record in records], "HRESCH", STEWARD, "test") as opened:
        return [json.loads(opened.read(record.report))["caption"] for record in records]


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


def test_all_forms_give_the_same_pairs(folder: Path) -> None:
    rows = lines_of(folder)
    texts = ['A "quoted", text', "two\nlines", *(str(row["caption"]) for row in rows[2:])]
    rows = [row | {"caption": text} for row, text in zip(rows, texts, strict=True)]
    write(folder, rows)

    def quoted(value: object) -> str:
        return '"' + str(value).replace('"', '""') + '"'

    for sign, name in ((",", "a.csv"), ("\t", "a.tsv")):
        body = [sign.join(map(quoted, row.values())) for row in rows]
        (folder / name).write_text("\ufeff" + "\n".join([sign.join(rows[0]), *body]) + "\n", encoding="utf-8")
    turns = [[{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": text}] for text in texts]
    llava = [
        {"id": at, "image": row["image"], "patient": row["patient"], "conversations": said}
        for at, (row, said) in enumerate(zip(rows, turns, strict=True))
    ]
    (folder / "a.json").write_text(json.dumps(llava, indent=1))
    told = [[(one.image, one.text, one.patient) for one in read_pairs(folder / name)]
            for name in ("pairs.jsonl", "a.csv", "a.tsv", "a.json")]  # fmt: skip
    assert told[0] == told[1] == told[2] == told[3]
    assert [one.line for one in read_pairs(folder / "pairs.jsonl")] == list(range(1, 21))
    starts = [at for at, line in enumerate((folder / "a.json").read_text().splitlines(), 1) if line == " {"]
    assert [one.line for one in read_pairs(folder / "a.json")] == starts


def test_columns_and_pattern(folder: Path) -> None:
    (folder / "t.csv").write_text(f"file,report,mrn\n3,Some text.,{NUMBER}\n")
    columns = Columns.parse("image=file, text=report,patient=mrn", "images/{}.png")
    (pair,) = read_pairs(folder / "t.csv", columns)
    assert (pair.image.name, pair.text, pair.patient, pair.line) == ("3.png", "Some text.", NUMBER, 2)
    assert NUMBER not in repr(pair)
    with pytest.raises(BadInput, match="no column 'image'") as missing_column:
        read_pairs(folder / "t.csv")
    assert "file, report, mrn" in missing_column.value.hint
    (folder / "t.csv").write_text("image,caption,patient\nimages/3.png,a,b,c\n")
    with pytest.raises(BadInput, match="3 fields") as row:
        read_pairs(folder / "t.csv")
    assert row.value.where.endswith("t.csv:2")
    for bad in ("picture=file", "image", "image="):
        with pytest.raises(BadInput, match="part=column"):
            Columns.parse(bad)
    with pytest.raises(BadInput, match="pattern"):
        Columns(pattern="images")


@given(st.lists(st.tuples(st.text(min_size=1, max_size=20), st.integers(0, 3)), min_size=1, max_size=6))
def test_a_json_list_in_any_layout(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, int]]) -> None:
    rows = [(text, gap) for text, gap in rows if text.strip()]
    folder = tmp_path_factory.mktemp("json")
    objects = [json.dumps({"image": "a.png", "caption": text, "patient": "P1"}) for text, _ in rows]
    body = ",".join("\n" * gap + one + " " * gap for one, (_, gap) in zip(objects, rows, strict=True))
    (folder / "a.json").write_text(f" [{body}]\n")
    if rows:
        assert [one.text for one in read_pairs(folder / "a.json")] == [text.strip() for text, _ in rows]
    for damaged in (f"[{body}", f"[{body},]", f"[{body}] 1", body + "]"):
        (folder / "a.json").write_text(damaged)
        with pytest.raises(BadInput):
            read_pairs(folder / "a.json")


@pytest.mark.parametrize(
    ("text", "number", "clean"),
    [
        (f"Patient {NUMBER}: a lesion.", NUMBER, f"Patient {MARK}: a lesion."),
        ("no. hn-811-721, seen", NUMBER, f"no. {MARK}, seen"),
        ("MRN 811 721.", NUMBER, f"MRN {MARK}."),
        ("000811721", "811721", MARK),
        ("811721", "000811721", MARK),
        ("a 9811721 mm thing", "811721", "a 9811721 mm thing"),
        ("A 7 mm lesion.", "7", "A 7 mm lesion."),
        ("Patient no. 7 has a 7 mm lesion.", "7", f"Patient no. {MARK} has a 7 mm lesion."),
        ("nothing", "", "nothing"),
    ],
)
def test_a_patients_number_is_taken_out_in_any_spelling(text: str, number: str, clean: str) -> None:
    assert without_number(text, number)[0] == clean


@given(st.text(max_size=30), st.from_regex(r"[A-Z]{0,3}[1-9][0-9]{4,8}", fullmatch=True), st.sampled_from(" -./_"))
def test_the_number_never_stays(around: str, number: str, gap: str) -> None:
    for said in (number, number.lower(), gap.join(number)):
        clean, found = without_number(f"{around} {said} {around}", number)
        assert found >= 1 and said not in clean


def test_numbers_in_texts_are_counted_and_gone(vault: Vault, folder: Path) -> None:
    write(folder, [line | {"caption": f"{line['caption']} ({line['patient']})"} for line in lines_of(folder)])
    assert bring_in(vault, folder, dry_run=True).redacted == 20
    assert bring_in(vault, folder).redacted == 20
    assert all(MARK in text and NUMBER not in text for text in captions(vault))


def test_a_picture_keeps_its_pixels_and_loses_its_header(tmp_path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "Jane Roe")
    Image.effect_noise((32, 20), 40).save(tmp_path / "a.png", pnginfo=info)
    exif = Image.Exif()
    exif[0x010E], exif[0x0112] = "Jane Roe", 6  # description; turned by 90 degrees
    Image.new("RGB", (32, 20), "red").save(tmp_path / "a.jpg", exif=exif, icc_profile=b"Jane Roe")
    for name, size in (("a.png", (32, 20)), ("a.jpg", (20, 32))):
        assert b"Jane Roe" in (tmp_path / name).read_bytes()
        picture, number = open_picture(tmp_path / name, name)
        assert (picture.size, number) == (size, "")
        assert b"Jane Roe" not in to_png(picture)
    assert open_picture(tmp_path / "a.png", "")[0].tobytes() == Image.open(tmp_path / "a.png").tobytes()


def test_deep_grey_is_stretched_and_transparency_dropped(tmp_path: Path) -> None:
    deep = Image.new("I;16", (2, 1))
    deep.putpixel((0, 0), 1000)
    deep.putpixel((1, 0), 3000)
    deep.save(tmp_path / "deep.png")
    assert list(open_picture(tmp_path / "deep.png", "")[0].tobytes()) == [0, 255]
    Image.new("RGBA", (2, 2), (1, 2, 3, 4)).save(tmp_path / "clear.png")
    assert open_picture(tmp_path / "clear.png", "")[0].mode == "RGB"


def test_dicom_is_windowed_and_names_its_patient(tmp_path: Path, vault: Vault) -> None:
    pydicom = pytest.importorskip("pydicom", reason="pydicom is not installed: pip install 'cloche[dicom]'")
    from pydicom.data import get_testdata_file

    dataset = pydicom.dcmread(get_testdata_file("CT_small.dcm", download=False))
    dataset.PatientID = NUMBER
    dataset.save_as(tmp_path / "ct.dcm")
    picture, number = open_picture(tmp_path / "ct.dcm", "ct")
    assert (picture.size, picture.mode, number) == ((128, 128), "L", NUMBER)
    assert picture.getextrema() == (0, 255)
    write(tmp_path, [{"image": "ct.dcm", "caption": f"CT of {NUMBER}."}])
    assert bring_in(vault, tmp_path / "pairs.jsonl").redacted == 1
    assert vault.catalogue.records()[0].patient == vault.pseudonym(NUMBER)
    write(tmp_path, [{"image": "ct.dcm", "caption": "CT.", "patient": "HN1234"}])
    with pytest.raises(BadInput, match="different patients") as refused:
        bring_in(vault, tmp_path / "pairs.jsonl")
    assert NUMBER not in refused.value.diagnostics() and "HN1234" not in refused.value.diagnostics()


def test_an_unknown_use_of_what_came_in_is_refused(vault: Vault, folder: Path) -> None:
    bring_in(vault, folder)
    with pytest.raises(Refused), vault.use([vault.catalogue.records()[0].image], "MARKETING", STEWARD, "test"):
        pass
