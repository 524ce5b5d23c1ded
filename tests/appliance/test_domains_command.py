"""`cloche domains`, as a clinician types it; it needs no appliance."""

import io
import json
import sys
from pathlib import Path

import pytest

from tests.appliance.conftest import Run


def test_tables_are_listed_and_shown(run: Run, tmp_path: Path) -> None:
    code, said, _ = run("domains", "list")
    assert code == 0 and "brain-mri" in said and "remote-sensing" in said
    names = [one["name"] for one in json.loads(run("domains", "list", "--json")[1])]
    for name in names:
        assert run("domains", "show", name)[0] == 0
        own = tmp_path / f"{name}.toml"
        own.write_text(run("domains", "show", name, "--toml")[1])
        one, other = (json.loads(run("domains", "show", table, "--json")[1]) for table in (name, str(own)))
        assert one == other and one["transforms"]
    code, said, _ = run("domains", "show", "histology")
    assert said.count("left out") == 2 and "mirror, rotate-90, rotate-180, rotate-270: swaps no words" in said


def test_a_question_is_tried(run: Run) -> None:
    code, said, _ = run("domains", "check", "brain-mri", "--question", "Is the lesion on the left?")
    assert code == 0 and "swapped" in said and "left becomes right" in said and "Is the lesion on the right?" in said
    _, said, _ = run("domains", "check", "chest-xray", "--question", "Is the heart enlarged?", "--json")
    verdict = json.loads(said)["verdicts"]["mirror"]
    assert verdict["outcome"] == "gated" and verdict["why"] == "'heart': the heart lies on the left"
    _, said, _ = run("domains", "check", "histology", "--answer", "benign")
    assert said.count(" kept ") == 4


def test_a_table_that_is_not_well_is_refused(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_text('title = "Own"\nasks = ["side"]\n[[transform]]\nkind = "mirror"\n')
    code, _, err = run("domains", "check", str(file))
    assert code == 3 and "own.toml, [[transform]] 1, swap" in err and 'swap = [["left", "right"]]' in err
    file.write_text(file.read_text() + "force = true\n")
    code, said, _ = run("domains", "check", str(file))
    assert code == 0 and "control experiment" in said
    assert run("domains", "check", "brian")[0] == 3


def test_what_is_a_patients_comes_on_standard_input(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("domains", "check", "brain-mri", "--question", "-", "--answer", "-", "--json")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"Which side?\nOn the\nleft.\n"), "utf-8"))
    code, said, err = run(*words)
    verdict = json.loads(said)["verdicts"]["mirror"]
    assert code == 0 and not err and verdict["question"] == "Which side?" and verdict["answer"] == "On the\nright.\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"Which\xff?\nSecret\n"), "utf-8"))
    code, said, err = run(*words)
    assert code == 3 and not said and "UTF-8" in err and "Secret" not in err


def test_neither_a_table_nor_a_question_can_write_to_the_terminal(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_text(
        '# \u202e\t\ntitle = "T\\u001b[31m"\nasks = []\n[[transform]]\nkind = "mirror"\n'
        '[[transform.gate]]\nwords = ["he\\u0007art"]\nwhy = "lies\\u001b[2J left"\n'
    )
    for words in (("show",), ("show", "--toml"), ("check", "--question", "\x1b[2J he\x07art \u202e")):
        code, said, _ = run("domains", words[0], str(file), *words[1:])
        assert code == 0 and not {"\x1b", "\x07", "\u202e"} & {*said}, words
    code, said, _ = run("domains", "check", "brain-mri", "--question", "\x1b[2J left")
    assert code == 0 and "\x1b" not in said and "\\x1b[2J right" in said
    assert "\t" in run("domains", "show", str(file), "--toml")[1]
