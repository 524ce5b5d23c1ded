"""Pairs out of JSONL, JSON, CSV and TSV: one meaning in every form, and the place of what cannot be read."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.intake.readers import Columns, read_pairs
from audit.errors import BadInput
from tests.appliance.conftest import NUMBER, lines_of, write


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
