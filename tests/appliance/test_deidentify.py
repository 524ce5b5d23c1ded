"""A patient's number leaves the words about the patient, however it is spelt."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.intake.deidentify import MARK, without_number
from audit.vault import Vault
from tests.appliance.conftest import NUMBER, bring_in, captions, lines_of, write


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
