"""`cloche rewards` as a person types it."""

import io
import json
import sys
from pathlib import Path

import pytest

from tests.appliance.conftest import Run
from tests.appliance.test_cli import ROOT, typed, understand

EXAMPLE = str(ROOT / "docs" / "rules-example.toml")
SIDE = ("--question", "Which side is the lesion on?", "--reference", "left", "--rules", EXAMPLE)


def test_the_list_says_what_each_reward_pays_for(run: Run) -> None:
    code, out, err = run("rewards", "list", "--json")
    assert (code, err) == (0, "")
    page = (ROOT / "docs" / "rewards.md").read_text()
    for row in json.loads(out):
        assert row["pays"] and f"| `{row['name']}" in page
    assert "number[:TOLERANCE]" in run("rewards", "list")[1]


def test_trying_says_which_rule_gives_what_and_why(run: Run) -> None:
    code, out, _ = run("rewards", "try", *SIDE, "--answer", "On the right.")
    assert code == 0
    lines = out.splitlines()
    assert any(
        "0.00  rule side: says right, the reference left (the wrong side is the wrong patient)" in one for one in lines
    )
    assert any(one.startswith("  -    rule planes") for one in lines)
    code, out, _ = run("rewards", "try", *SIDE, "--answer", "On the left.", "--json")
    found = {row.get("reward") or row["rule"]: row for row in json.loads(out)}
    assert found["closed"]["score"] == found["side"]["score"] == found[f"rules:{EXAMPLE}"]["score"] == 1.0
    assert found["planes"]["score"] is None and all(row["why"] for row in found.values())


def test_what_is_a_patients_comes_on_standard_input_and_leaves_no_trace(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CLOCHE_HOME", str(tmp_path / "home"))
    words = ("rewards", "try", "--question", "-", "--reference", "-", "--answer", "-", "--reward", "number", "--json")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"How large?\n1.2 cm\nIt is\n12 mm.\n"), "utf-8"))
    code, out, err = run(*words)
    assert code == 0 and json.loads(out)[0]["score"] == 1.0 and not err
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"How\xff large?\nSecret\n"), "utf-8"))
    code, out, err = run(*words)
    assert code == 3 and not out and "UTF-8" in err and "Secret" not in err
    assert not list(tmp_path.iterdir())


def test_an_answer_cannot_write_to_the_terminal(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "rules.toml"
    path.write_text('[[vocabulary]]\nname = "n\\u001b[31m"\nallowed = ["mass"]\nbecause = "\\u202e"\n')
    code, out, _ = run("rewards", "try", "--answer", "nothing", "--rules", str(path))
    assert code == 0 and "rule n\\x1b[31m" in out and "\x1b" not in out and "\u202e" not in out
    code, out, _ = run("rewards", "check", str(path))
    assert code == 0 and "\x1b" not in out and "\u202e" not in out


def test_the_example_is_said_as_sentences(run: Run) -> None:
    code, out, _ = run("rewards", "check", EXAMPLE)
    assert code == 0 and "nobody has reviewed" in out and "numbers are from 0 to 30 mm" in out
    data = json.loads(run("rewards", "check", EXAMPLE, "--json")[1])
    assert len(data["rules"]) == 5 and all(one["says"] and one["because"] for one in data["rules"])


def test_a_broken_file_names_file_table_key_and_remedy(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "broken.toml"
    path.write_text('[[range]]\nname = "shift"\nwhen = ["shift"]\nunit = "mmm"\nlow = 0\nhigh = 30\n')
    for words in (("check", str(path)), ("try", "--answer", "x", "--rules", str(path))):
        code, out, err = run("rewards", *words)
        assert (code, out) == (3, "")
        assert "broken.toml, [[range]] 1, key unit" in err and "Next: the nearest is mm" in err
    code, _, err = run("rewards", "try", "--answer", "x", "--reward", "exakt")
    assert code == 3 and "'exact'" in err and "cloche rewards list" in err


def test_command_lines_in_the_rewards_guide_can_be_typed() -> None:
    lines = typed((ROOT / "docs" / "rewards.md").read_text())
    assert len(lines) >= 5
    for words in lines:
        understand(words)
